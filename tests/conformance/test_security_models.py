"""What a configuration or a load request could do to a server, and does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.conformance import grpc_models
from tests.conformance.http_rest import Rest

IDENTITY = {
    "name": "victim",
    "backend": "identity",
    "max_batch_size": 8,
    "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [4]}],
    "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [4]}],
}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("models")
    grpc_models.write_model(repository, "victim", json_as_pbtxt())
    grpc_models.link_sample(repository, "simple")
    (repository.parent / "secret.txt").write_text("S3CR3T\n")
    with run_server(
        repository, "--model-control-mode=explicit", "--load-model=simple", "--load-model=victim"
    ) as running:
        yield running


def json_as_pbtxt() -> str:
    return """backend: "identity" max_batch_size: 8
        input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] }
        output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] }"""


@pytest.fixture
def rest(server: Any) -> Iterator[Rest]:
    client = Rest(server.http)
    yield client
    assert client.get("/v2/health/live").status == 200
    client.close()


def load(rest: Rest, config: object) -> Any:
    text = config if isinstance(config, str) else json.dumps(config)
    return rest.post("/v2/repository/models/victim/load", {"parameters": {"config": text}})


def with_label(name: str) -> dict[str, Any]:
    return {**IDENTITY, "output": [{**IDENTITY["output"][0], "label_filename": name}]}  # type: ignore[index]  # a list of one


def with_warmup(name: str) -> dict[str, Any]:
    data = {"data_type": "TYPE_FP32", "dims": [4], "input_data_file": name}
    sample = {"name": "w", "batch_size": 1, "inputs": {"INPUT0": data}}
    return {**IDENTITY, "model_warmup": [sample]}


@pytest.mark.parametrize("path", [
    "../../secret.txt", "/etc/passwd", "../victim/../../secret.txt", "..", "/", "~/x", "a\0b",
])  # fmt: skip
def test_cve_2026_24208_no_path_of_a_configuration_leaves_its_model(path: str, rest: Rest) -> None:
    for config in (
        with_label(path),
        with_warmup(path),
        {**IDENTITY, "default_model_filename": path},
        {**IDENTITY, "cc_model_filenames": {"7.5": path}},
        {**IDENTITY, "backend": path},
    ):
        answer = load(rest, config)
        if path == "~/x" and ("default_model_filename" in config or "cc_model_filenames" in config):
            continue  # a name like any other: nobody expands it
        assert 400 <= answer.status < 600, config
        assert "S3CR3T" not in answer.error
        assert "root:" not in answer.error
    assert rest.get("/v2/models/victim/ready").status == 200  # a failed load leaves what there was


WORDS: tuple[object, ...] = (
         None, True, 0, -1, 2**31, 2**63, 2**64, 1e308, "", "x", "\0", "é", "../x", [], {}, [[]],
         [None], {"": {}}, ["x"] * 50, "TYPE_FP32", "TYPE_STRING")  # fmt: skip
KEYS = ("name", "backend", "platform", "runtime", "max_batch_size", "input", "output", "dims",
        "data_type", "reshape", "shape", "version_policy", "specific", "versions", "instance_group",
        "count", "kind", "gpus", "dynamic_batching", "preferred_batch_size", "sequence_batching",
        "oldest", "direct", "state", "control_input", "control", "ensemble_scheduling", "step",
        "input_map", "parameters", "string_value", "model_warmup", "inputs", "optimization",
        "priority", "cc_model_filenames", "response_cache", "enable",
        "max_queue_delay_microseconds",
        "priority_levels", "default_queue_policy", "batch_input", "batch_output", "nonsense",
        "rate_limiter", "resources", "model_transaction_policy", "decoupled")  # fmt: skip


def nonsense(random: Random, depth: int = 0) -> object:
    if depth < 3 and random.random() < 0.6:
        return {
            random.choice(KEYS): nonsense(random, depth + 1) for _ in range(random.randrange(4))
        }
    if depth < 3 and random.random() < 0.4:
        return [nonsense(random, depth + 1) for _ in range(random.randrange(3))]
    return random.choice(WORDS)


def test_cve_2025_23336_no_configuration_ends_the_server(rest: Rest, server: Any) -> None:
    random = Random(5)
    files = server.open_files()
    for _ in range(400):
        config: dict[str, Any] = dict(IDENTITY)
        for _ in range(random.randrange(1, 4)):
            config[random.choice(KEYS)] = nonsense(random)
        answer = load(rest, config)
        assert answer.status in (200, 400, 404, 500, 501, 503), config
        if answer.status != 200:
            assert answer.error != "internal server error", config
    for text in ("", "{", "[]", "null", '"x"', "{" * 5000, '{"input":' * 5000, "\0"):
        assert 400 <= load(rest, text).status < 600
    assert load(rest, IDENTITY).status == 200
    assert server.open_files() <= files + 4
    assert not [line for line in server.lines if "Traceback" in line]


def test_by_default_nobody_loads_code(tmp_path: Path, run_server: Callable[..., Any]) -> None:
    """The load API runs code by design, so a server without a word of its operator has none."""
    grpc_models.link_sample(tmp_path, "simple")
    refusal = "explicit model load / unload is not allowed if polling is enabled"
    with run_server(tmp_path) as plain:
        rest = Rest(plain.http)
        for verb in ("load", "unload"):
            answer = rest.post(f"/v2/repository/models/simple/{verb}")
            assert (answer.status, answer.error) == (503, refusal)
        with grpcclient.InferenceServerClient(plain.grpc) as client:
            for call in (client.load_model, client.unload_model):
                with pytest.raises(InferenceServerException, match="not allowed if polling"):
                    call("simple")
        assert rest.post("/v2/systemsharedmemory/region/r/register", {}).status == 501
        rest.close()
