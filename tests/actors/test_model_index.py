"""Names and namespaces in the published index, and how the index follows the repositories."""

from __future__ import annotations

import pytest

from actors.channels import Watch
from actors.lifecycle.index_writer import DUPLICATE, IndexWriter
from actors.lifecycle.model_index import ModelIndex, VersionEntry, VersionState
from protocol.status import ServerError, StatusCode
from repo.scan import ModelIdentity, Sighting


def seen(*names: str, duplicate: bool = False) -> dict[str, Sighting]:
    """Sightings by full name; what stands before a colon is the namespace."""
    found: dict[str, Sighting] = {}
    for name in names:
        namespace, _, plain = name.rpartition(":")
        identity = ModelIdentity(namespace, plain)
        found[str(identity)] = Sighting(identity, is_duplicate=duplicate)
    return found


def written(*names: str) -> IndexWriter:
    writer = IndexWriter(Watch(ModelIndex()))
    writer.see(seen(*names), is_all=True)
    return writer


def test_a_step_means_its_own_namespace_first() -> None:
    index = written("r:m", "s:m", "s:single").value

    assert index.resolve("m", "r") == "r::m"
    assert index.resolve("m", "s") == "s::m"
    assert index.resolve("single", "r") == "s::single"
    assert index.resolve("m", "t") is None
    assert index.resolve("nobody", "r") is None


def test_a_better_match_that_goes_gives_way_to_the_only_one_left() -> None:
    writer = written("r:m", "s:m")
    writer.see(seen("s:m"), is_all=True)

    assert writer.resolve("m", "r") == "s::m"


def test_without_namespaces_a_name_means_itself_while_it_is_there() -> None:
    index = written("m").value

    assert index.resolve("m", "") == "m"
    assert index.resolve("n", "") is None


def test_a_plain_name_that_two_models_have_is_ambiguous() -> None:
    index = written("r:m", "s:m", "s:single").value

    with pytest.raises(ServerError) as caught:
        index.find("m", "")
    assert caught.value.status is StatusCode.INVALID_ARG
    assert caught.value.message == (
        "There are 2 identifiers of model 'm' in global map, model namespace must be provided to "
        "resolve ambiguity."
    )
    with pytest.raises(ServerError, match="Request for unknown model: 'single' is not found"):
        index.find("single", "")  # it is there, and was never loaded


def test_what_was_never_loaded_goes_with_its_directory() -> None:
    writer = written("a", "b")
    writer.set_version("b", 1, VersionEntry(VersionState.UNAVAILABLE, "unloaded"))
    writer.see({}, is_all=True)

    assert set(writer.value.models) == {"b"}
    assert not writer.value.models["b"].is_listed
    writer.see(seen("b"), is_all=False)
    assert writer.value.models["b"].is_listed


def test_a_duplicate_says_so_until_it_is_none() -> None:
    writer = written()
    writer.see(seen("m", duplicate=True), is_all=True)
    assert writer.value.models["m"].reason == DUPLICATE
    writer.see(seen("m"), is_all=True)
    assert writer.value.models["m"].reason == ""


def test_a_model_that_a_request_brought_stands_in_no_repository() -> None:
    writer = written()
    writer.set_version("m", 1, VersionEntry(VersionState.LOADING))

    assert not writer.value.models["m"].is_listed
