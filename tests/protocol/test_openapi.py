"""The description of the REST port says what is served, no more and no less."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from protocol.openapi import document, document_text, paths
from protocol.routes import Operation, resolve

SAMPLES = {"model": "m", "version": "3", "repository": "r", "region": "g"}


@pytest.mark.parametrize("path", sorted(paths()))
def test_what_is_described_is_served(path: str) -> None:
    route = resolve(path.format(**SAMPLES))
    assert route is not None
    operations = paths()[path]
    assert {method.upper() for method in operations} == set(route.allowed_methods)
    for _, category, *_ in operations.values():
        assert category == route.category.value


def test_every_operation_is_described() -> None:
    served = set()
    for path in paths():
        route = resolve(path.format(**SAMPLES))
        assert route is not None
        served |= {type(operation) for operation in route.operations.values()}
    assert served == set(Operation.__args__)
    assert len(paths()) == 39


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_document_is_whole() -> None:
    told = json.loads(document_text(server_version="1.2"))
    assert told == json.loads(json.dumps(document(server_version="1.2")))
    assert told["openapi"] == "3.1.0"
    assert told["info"]["version"] == "1.2"
    schemas = {f"#/components/schemas/{name}" for name in told["components"]["schemas"]}
    assert set(references(told)) <= schemas
    assert schemas - set(references(told)) == set()
    identifiers = [
        entry["operationId"]
        for operations in told["paths"].values()
        for method, entry in operations.items()
        if method != "parameters"
    ]
    assert len(identifiers) == len(set(identifiers))
    infer = told["paths"]["/v2/models/{model}/versions/{version}/infer"]
    assert [each["name"] for each in infer["parameters"]] == ["model", "version"]
    assert set(infer["post"]["requestBody"]["content"]) == {
        "application/json",
        "application/octet-stream",
    }
    stream = told["paths"]["/v2/models/{model}/generate_stream"]["post"]
    assert list(stream["responses"]["200"]["content"]) == ["text/event-stream"]
    assert "content" not in told["paths"]["/v2/health/live"]["get"]["responses"]["200"]
