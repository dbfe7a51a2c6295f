"""Version directories and the policy that selects among them."""

from __future__ import annotations

import pytest

from protocol.status import ServerError, StatusCode
from repo.pbtxt import parse_config
from repo.versions import discover_versions, select_versions


def test_directories_that_are_no_versions_are_named(caplog: pytest.LogCaptureFixture) -> None:
    names = ["01", "configs", "warmup", "initial_state", "notes", "1abc", "-1", "²", "10", "3", "0"]

    assert discover_versions(names) == (0, 3, 10)
    assert [record.getMessage() for record in caplog.records] == [
        "ignore version directory '01' which contains leading zeros in its directory name",
        "ignore version directory 'notes' which fails to convert to integral number",
        "ignore version directory '1abc' which fails to convert to integral number",
        "ignore version directory '-1' which fails to convert to integral number",
        "ignore version directory '²' which fails to convert to integral number",
    ]


def test_a_number_that_no_int64_holds_is_no_version(caplog: pytest.LogCaptureFixture) -> None:
    assert discover_versions([str(2**63 - 1), str(2**63)]) == (2**63 - 1,)
    assert f"'{2**63}' which fails to convert" in caplog.text


@pytest.mark.parametrize(
    ("policy", "selected"),
    [
        ("", (10,)),
        ("version_policy { }", (1, 2, 10)),  # present, and restricts nothing
        ("version_policy { latest { num_versions: 2 } }", (2, 10)),
        ("version_policy { latest { num_versions: 9 } }", (1, 2, 10)),
        ("version_policy { all { } }", (1, 2, 10)),
        ("version_policy { specific { versions: [ 10, 1 ] } }", (1, 10)),
    ],
)
def test_the_policy_selects(policy: str, selected: tuple[int, ...]) -> None:
    assert select_versions(parse_config(policy, "x"), [10, 1, 2]) == selected


def test_a_missing_specific_version_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    config = parse_config('name: "m" version_policy { specific { versions: [ 1, 9 ] } }', "x")

    assert select_versions(config, [1]) == (1,)
    assert caplog.records[0].getMessage() == (
        "version 9 is specified for model 'm', but the version directory is not present"
    )


@pytest.mark.parametrize(
    ("policy", "available"),
    [
        ("", ()),
        ("version_policy { all { } }", ()),
        ("version_policy { latest { } }", (1,)),
        ("version_policy { specific { versions: 9 } }", (1,)),
    ],
)
def test_no_version_left_is_an_error(policy: str, available: tuple[int, ...]) -> None:
    with pytest.raises(ServerError) as failure:
        select_versions(parse_config(f'name: "m" {policy}', "x"), available)

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == (
        "at least one version must be available under the version policy of model 'm'"
    )
