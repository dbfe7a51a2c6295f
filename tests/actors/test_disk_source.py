"""Models on disk: several repositories, namespaces, registrations, agents, other configurations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from actors.lifecycle.disk_source import DiskSource
from actors.settings.options import ServerOptions
from protocol.status import ServerError, StatusCode
from repo import agents as repository_agents
from repo.agents import Action, AgentModel, RepositoryAgent
from repo.backends.base import InstanceContext
from repo.instance_groups import DeviceTable
from repo.preparation import ModelDescription
from repo.scan import ModelIdentity, Sighting

M = ModelIdentity("", "m")
IO = (
    'input { name: "INPUT0" data_type: TYPE_FP32 dims: 1 } '
    'output { name: "OUTPUT0" data_type: TYPE_FP32 dims: 1 } '
)


async def not_python(context: InstanceContext) -> str | None:
    raise AssertionError(f"{context.model_name} is no Python model")


def source(*repositories: Path, **options: object) -> DiskSource:
    chosen = ServerOptions(
        model_repository=tuple(map(str, repositories)),
        **options,  # type: ignore[arg-type]  # named as the options are
    )
    return DiskSource(chosen, devices=DeviceTable(), complete_python=not_python)


def write(repository: Path, name: str = "m", text: str = "", version: str = "1") -> Path:
    directory = repository / name
    (directory / version).mkdir(parents=True, exist_ok=True)
    (directory / "config.pbtxt").write_text(f'backend: "identity" {IO} {text}')
    return directory


async def describe(
    of: DiskSource, identity: ModelIdentity = M, **parameters: str
) -> ModelDescription:
    return await of.describe(identity, parameters)


async def refusal(of: DiskSource, identity: ModelIdentity = M) -> tuple[StatusCode, str]:
    with pytest.raises(ServerError) as caught:
        await describe(of, identity)
    return caught.value.status, caught.value.message


# --- several repositories ------------------------------------------------------------------------


async def test_a_model_is_found_in_any_repository(tmp_path: Path) -> None:
    write(tmp_path / "r", "a")
    write(tmp_path / "s", "b")
    both = source(tmp_path / "r", tmp_path / "s", tmp_path / "r")

    assert set(await both.look()) == {"a", "b"}
    assert set(await both.look(["b", "c"])) == {"b"}
    found = await describe(both, ModelIdentity("", "b"))
    assert found.directory == tmp_path / "s" / "b"
    assert found.seen == (await both.look())["b"]


async def test_a_model_in_two_repositories_is_in_none(tmp_path: Path) -> None:
    write(tmp_path / "r")
    write(tmp_path / "s")
    both = source(tmp_path / "r", tmp_path / "s")

    assert await both.look() == {"m": Sighting(M, is_duplicate=True)}
    assert (await refusal(both))[1] == "model appears in two or more repositories"


async def test_namespaces_keep_models_of_one_name_apart(tmp_path: Path) -> None:
    write(tmp_path / "r", text="max_batch_size: 2")
    write(tmp_path / "s", text="max_batch_size: 3")
    both = source(tmp_path / "r", tmp_path / "s", model_namespacing=True)

    assert set(await both.look(["m"])) == {f"{tmp_path}/r::m", f"{tmp_path}/s::m"}
    for place, size in (("r", 2), ("s", 3)):
        found = await describe(both, ModelIdentity(f"{tmp_path}/{place}", "m"))
        assert found.config.max_batch_size == size
        assert found.name == f"{tmp_path}/{place}::m"


async def test_a_repository_that_has_gone_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "r")
    one = source(tmp_path / "r")
    (tmp_path / "r").rename(tmp_path / "elsewhere")

    with pytest.raises(ServerError, match="failed to read model repository") as caught:
        await one.look()
    assert caught.value.status is StatusCode.INTERNAL


# --- registrations -------------------------------------------------------------------------------


async def test_a_registered_repository_s_models_have_their_mapped_names(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    write(tmp_path / "s", "dir1", 'name: "dir1"')
    write(tmp_path / "s", "plain")
    one = source(tmp_path / "r")
    place = str(tmp_path / "s")

    one.register(place, {"shown": "dir1"})
    assert set(await one.look()) == {"shown", "plain"}
    found = await describe(one, ModelIdentity("", "shown"))
    assert found.config.name == "shown"
    assert found.directory == tmp_path / "s" / "dir1"
    one.unregister(place)
    assert not await one.look()


def test_registrations_are_refused_with_their_reason(tmp_path: Path) -> None:
    for name in ("r", "s", "t"):
        (tmp_path / name).mkdir()
    r, s, t = (str(tmp_path / name) for name in ("r", "s", "t"))
    one = source(tmp_path / "r")

    def refused(location: str, mapping: Mapping[str, str]) -> tuple[StatusCode, str]:
        with pytest.raises(ServerError) as caught:
            one.register(location, mapping)
        return caught.value.status, caught.value.message

    assert refused("/none", {}) == (
        StatusCode.INVALID_ARG,
        "failed to register '/none', repository not found",
    )
    assert refused(r, {}) == (
        StatusCode.ALREADY_EXISTS,
        f"model repository '{r}' has already been registered",
    )
    one.register(s, {"a": "x"})
    assert refused(t, {"a": "y"}) == (
        StatusCode.ALREADY_EXISTS,
        "failed to register 'a', there is a conflicting mapping for 'a'",
    )
    with pytest.raises(ServerError, match="failed to unregister '/none', repository not found"):
        one.unregister("/none")


# --- configurations ------------------------------------------------------------------------------


async def test_a_named_configuration_is_preferred_where_it_is(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path, name, "max_batch_size: 1")
    (tmp_path / "a" / "configs").mkdir()
    other = f'backend: "identity" {IO} max_batch_size: 7'
    (tmp_path / "a" / "configs" / "h100.pbtxt").write_text(other)
    named = source(tmp_path, model_config_name="h100")

    assert (await describe(named, ModelIdentity("", "a"))).config.max_batch_size == 7
    assert (await describe(named, ModelIdentity("", "b"))).config.max_batch_size == 1


async def test_a_directory_and_its_configuration_have_one_name(tmp_path: Path) -> None:
    write(tmp_path, "m", 'name: "other"')

    assert (await refusal(source(tmp_path)))[1] == (
        "unexpected directory name 'm' for model 'other', directory name must equal model name"
    )


async def test_without_a_file_somebody_has_to_know_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, "m.identity")
    (tmp_path / "m.identity" / "config.pbtxt").unlink()
    identity = ModelIdentity("", "m.identity")

    assert await refusal(source(tmp_path), identity) == (
        StatusCode.NOT_FOUND,
        "model configuration is not provided for model 'm.identity'",
    )
    strict = source(tmp_path, disable_auto_complete_config=True)
    assert (await refusal(strict, identity))[1] == (
        f"failed to open text file for read {tmp_path}/m.identity/config.pbtxt: No such file or "
        "directory"
    )


async def test_a_request_s_configuration_replaces_the_file(tmp_path: Path) -> None:
    write(tmp_path, "m", "max_batch_size: 1")
    given = '{"backend": "identity", "max_batch_size": 5}'

    found = await describe(source(tmp_path), config=given)

    assert found.config.max_batch_size == 5
    assert found.given_config == given


# --- repository agents ---------------------------------------------------------------------------


def agent(name: str, **parameters: str) -> str:
    pairs = "".join(
        f' parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters.items()
    )
    return f'agents {{ name: "{name}"{pairs} }}'


def with_agents(*texts: str) -> str:
    return f"model_repository_agents {{ {' '.join(texts)} }}"


async def test_the_checksum_agent_lets_good_files_pass(tmp_path: Path) -> None:
    digest = hashlib.md5(b"weights", usedforsecurity=False).hexdigest()
    directory = write(tmp_path, "m", with_agents(agent("checksum", **{"md5:1/file": digest})))
    (directory / "1" / "file").write_bytes(b"weights")

    assert (await describe(source(tmp_path))).agents is not None


@pytest.mark.parametrize(
    ("key", "value", "status", "text"),
    [
        (
            "MD5:1/file",
            "0" * 32,
            StatusCode.INVALID_ARG,
            (
                f"Mismatched MD5 hash for file 1/file, expect: {'0' * 32}, got: "
                "00bd2e3afe68c2bb6c12b0e1d9d15dd1"
            ),
        ),
        ("MD5", "x", StatusCode.INVALID_ARG, "failed to parse key: MD5"),
        (
            "SHA256:1/file",
            "x",
            StatusCode.UNSUPPORTED,
            "Unsupported checksum algorithm: SHA256",
        ),
        (
            "MD5:1/none",
            "x",
            StatusCode.INTERNAL,
            "failed to open text file for read {directory}/1/none: No such file or directory",
        ),
    ],
)
async def test_the_checksum_agent_refuses(
    tmp_path: Path, key: str, value: str, status: StatusCode, text: str
) -> None:
    directory = write(tmp_path, "m", with_agents(agent("checksum", **{key: value})))
    (directory / "1" / "file").write_bytes(b"other")

    found, message = await refusal(source(tmp_path))

    assert found is status
    if "Mismatched" in text:
        text = text.rpartition(" ")[0] + " " + hashlib.md5(b"other").hexdigest()
    assert message == text.replace("{directory}", str(directory))


async def test_an_agent_that_nobody_has_is_looked_for(tmp_path: Path) -> None:
    write(tmp_path, "m", with_agents(agent("none")))
    text = "unable to find 'libtritonrepoagent_none.so' for repo agent 'none', searched: "

    assert await refusal(source(tmp_path)) == (
        StatusCode.NOT_FOUND,
        text + "/opt/tritonserver/repoagents",
    )
    elsewhere = source(tmp_path, repoagent_directory="/agents")
    assert (await refusal(elsewhere))[1] == text + "/agents"


class Witness(RepositoryAgent):
    """Notes what it hears; sends the model to another directory, or refuses it, if told so."""

    heard: list[tuple[str, str]] = []  # noqa: RUF012  # shared on purpose, emptied by the fixture

    def load(self, model: AgentModel) -> Path | None:
        self.heard.append((self.parameters["called"], f"LOAD {model.directory.name}"))
        if "refuses" in self.parameters:
            raise ServerError(StatusCode.UNAVAILABLE, "not today")
        target = self.parameters.get("to")
        return None if target is None else Path(target)

    def observe(self, action: Action) -> None:
        self.heard.append((self.parameters["called"], action.value))


class WitnessEntry:
    def load(self) -> type[RepositoryAgent]:
        return Witness


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    def installed(*, group: str, name: str) -> list[WitnessEntry]:
        assert group == "troupe.repository_agents"
        return [WitnessEntry()] if name == "witness" else []

    monkeypatch.setattr(repository_agents, "entry_points", installed)
    Witness.heard = []
    return Witness.heard


async def test_an_installed_agent_hears_of_a_model_s_whole_life(
    tmp_path: Path, heard: list[tuple[str, str]]
) -> None:
    write(tmp_path, "m", with_agents(agent("witness", called="w")))

    found = await describe(source(tmp_path))
    assert found.agents is not None
    found.agents.complete()
    found.retain()
    found.release()

    assert [action for _, action in heard] == [
        "LOAD m", "LOAD_COMPLETE", "UNLOAD", "UNLOAD_COMPLETE",
    ]  # fmt: skip


async def test_agents_hear_of_a_load_that_another_one_refuses(
    tmp_path: Path, heard: list[tuple[str, str]]
) -> None:
    second = agent("witness", called="b", refuses="yes")
    write(tmp_path, "m", with_agents(agent("witness", called="a"), second))

    assert await refusal(source(tmp_path)) == (StatusCode.UNAVAILABLE, "not today")
    assert heard == [("a", "LOAD m"), ("b", "LOAD m"), ("a", "LOAD_FAIL")]


async def test_an_agent_may_send_a_model_elsewhere(
    tmp_path: Path, heard: list[tuple[str, str]]
) -> None:
    ignored = agent("witness", called="never asked")
    elsewhere = with_agents(agent("witness", called="place 0"), agent("witness", called="next"))
    moved = write(tmp_path / "other", "m", f"max_batch_size: 9 {elsewhere}")
    first = agent("witness", called="first", to=str(moved))
    write(tmp_path / "r", "m", with_agents(first, ignored))

    found = await describe(source(tmp_path / "r"))

    assert heard == [("first", "LOAD m"), ("next", "LOAD m")]
    assert found.directory == moved
    assert found.config.max_batch_size == 9
