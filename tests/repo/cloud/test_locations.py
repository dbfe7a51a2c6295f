"""How locations in object storage are read."""

from __future__ import annotations

import pytest

from protocol.status import ServerError, StatusCode
from repo.cloud.locations import CloudLocation, parse_location


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gs://models/a/b", ("gs", "models", "a/b", "", "")),
        ("gs://models", ("gs", "models", "", "", "")),
        ("s3://models/a//b/", ("s3", "models", "a/b", "", "")),
        ("s3://localhost:9000/models/a", ("s3", "models", "a", "http://localhost:9000", "")),
        ("s3://http://minio:9000/models", ("s3", "models", "", "http://minio:9000", "")),
        ("s3://https://minio:443/models/a/", ("s3", "models", "a", "https://minio:443", "")),
        ("as://account/container/a/b", ("as", "container", "a/b", "", "account")),
        ("as://account/container", ("as", "container", "", "", "account")),
    ],
)
def test_every_spelling(text: str, expected: tuple[str, str, str, str, str]) -> None:
    assert parse_location(text) == CloudLocation(text, *expected)


def test_a_root_is_what_object_storage_calls_a_path() -> None:
    assert parse_location("s3://models//a/").root == "models/a"
    assert parse_location("s3://models").root == "models"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("s3://", "bucket"),
        ("gs:///", "bucket"),
        ("s3://localhost:9000/", "bucket"),
        ("as://account", "account and container"),
        ("as://", "account and container"),
    ],
)
def test_a_location_without_a_bucket_is_refused(text: str, missing: str) -> None:
    with pytest.raises(ServerError) as failure:
        parse_location(text)

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == f"repository location '{text}' names no {missing}"
