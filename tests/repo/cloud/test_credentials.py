"""Which arguments a file system gets, from the environment and from a credential file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.status import ServerError, StatusCode
from repo.cloud.credentials import arguments
from repo.cloud.locations import parse_location


def _arguments(location: str, environment: dict[str, str]) -> dict[str, Any]:
    return arguments(parse_location(location), environment)


def _file(tmp_path: Path, document: object) -> dict[str, str]:
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps(document))
    return {"TRITON_CLOUD_CREDENTIAL_PATH": str(path)}


def test_s3_leaves_the_environment_to_botocore() -> None:
    found = _arguments("s3://models/a", {"AWS_DEFAULT_REGION": "eu-west-1"})

    assert found == {
        "client_kwargs": {"region_name": "eu-west-1"},
        "config_kwargs": {
            "s3": {"addressing_style": "path"},
            "connect_timeout": 10,
            "read_timeout": 60,
            "retries": {"max_attempts": 4, "mode": "standard"},
        },
    }


def test_s3_of_one_s_own_has_an_endpoint() -> None:
    found = _arguments("s3://https://minio:9000/models", {})

    assert found["client_kwargs"] == {"endpoint_url": "https://minio:9000"}


def test_the_longest_prefix_of_the_file_wins(tmp_path: Path) -> None:
    environment = _file(
        tmp_path,
        {
            "s3": {
                "": {"key_id": "anyone", "secret_key": "s"},
                "s3://models": {"key_id": "k1", "secret_key": "s1", "region": "r1"},
                "s3://models/private": {
                    "key_id": "k2",
                    "secret_key": "s2",
                    "session_token": "t2",
                    "profile": "ignored beside a key",
                },
                "s3://models/private/profile": {"profile": "p"},
            }
        },
    )

    def chosen(location: str) -> list[object]:
        found = _arguments(location, environment)
        return [found.get(name) for name in ("key", "secret", "token", "profile")]

    assert chosen("s3://models/private/a") == ["k2", "s2", "t2", None]
    assert chosen("s3://models/public") == ["k1", "s1", None, None]
    assert chosen("s3://other") == ["anyone", "s", None, None]
    assert chosen("s3://models/private/profile/a") == [None, None, None, "p"]
    assert _arguments("s3://models/public", environment)["client_kwargs"] == {"region_name": "r1"}


def test_the_file_hides_the_environment(tmp_path: Path) -> None:
    environment = _file(tmp_path, {"gs": {"": "/file.json"}})
    environment["GOOGLE_APPLICATION_CREDENTIALS"] = "/environment.json"

    assert _arguments("gs://models", environment) == {"token": "/file.json"}


def test_no_prefix_that_matches_is_not_found(tmp_path: Path) -> None:
    environment = _file(tmp_path, {"gs": {"gs://other": "/file.json"}})

    for location in ("gs://models/a", "s3://models"):
        with pytest.raises(ServerError) as failure:
            _arguments(location, environment)
        assert failure.value.status is StatusCode.NOT_FOUND
        assert failure.value.message == f"Cannot match credential for path  {location}"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (["s3"], "cannot read the cloud credential file"),
        ({"s3": {"": "text"}}, "credentials for 's3://models' must be an object of strings"),
        ({"s3": {"": {"key_id": 1}}}, "credentials for 's3://models' must be an object of strings"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, document: object, problem: str) -> None:
    with pytest.raises(ServerError, match=problem) as failure:
        _arguments("s3://models", _file(tmp_path, document))

    assert failure.value.status is StatusCode.INVALID_ARG


def test_an_absent_file_is_refused() -> None:
    with pytest.raises(ServerError, match="cannot read the cloud credential file '/nowhere'"):
        _arguments("s3://models", {"TRITON_CLOUD_CREDENTIAL_PATH": "/nowhere"})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GOOGLE_APPLICATION_CREDENTIALS": "/key.json"}, {"token": "/key.json"}),
        ({"STORAGE_EMULATOR_HOST": "http://localhost:1"}, {"token": "anon"}),
        ({}, {}),  # gcsfs tries the machine's own account, then nobody's
    ],
)
def test_google_has_a_key_file_or_the_machine_s_account(
    environment: dict[str, str], expected: dict[str, str]
) -> None:
    assert _arguments("gs://models", environment) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"AZURE_STORAGE_KEY": "k"}, {"account_name": "a", "account_key": "k"}),
        (
            {"AZURE_STORAGE_KEY": "k", "AZURE_STORAGE_ACCOUNT": "other"},
            {"account_name": "other", "account_key": "k"},
        ),
        ({"AZURE_STORAGE_AUTH_TYPE": "default"}, {"account_name": "a", "anon": False}),
        ({}, {"account_name": "a", "anon": True}),
    ],
)
def test_azure_has_a_key_an_identity_or_nobody(
    environment: dict[str, str], expected: dict[str, object]
) -> None:
    found = _arguments("as://a/models", environment)

    assert found == expected | {"connection_timeout": 10, "read_timeout": 60}


def test_azure_takes_the_identity_of_the_machine() -> None:
    identity = pytest.importorskip("azure.identity.aio", reason="the cloud extra is not installed")

    found = _arguments(
        "as://a/models",
        {"AZURE_STORAGE_AUTH_TYPE": "managed_identity", "AZURE_STORAGE_CLIENT_ID": "c"},
    )

    assert isinstance(found["credential"], identity.ManagedIdentityCredential)
    assert "account_key" not in found


@pytest.mark.parametrize(
    ("auth_type", "problem"),
    [
        ("key", "no account key for 'as://a/models'"),
        ("password", "unknown authentication type 'password' for 'as://a/models'"),
    ],
)
def test_azure_refuses_what_it_cannot_do(auth_type: str, problem: str) -> None:
    with pytest.raises(ServerError, match=problem):
        _arguments("as://a/models", {"AZURE_STORAGE_AUTH_TYPE": auth_type})
