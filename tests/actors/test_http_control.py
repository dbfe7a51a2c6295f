"""Every REST operation that no model answers, with and without its body's mistakes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from multiprocessing import shared_memory
from typing import Any

import pytest

from actors.settings.options import ServerOptions
from protocol.api_keys import Guard
from protocol.restriction import Category, RestrictedApis
from tests.actors.grpc_rig import DECOUPLED, PLAIN, model
from tests.actors.http_rig import HttpWorld, Scenario, head, infer

EXPLICIT = ServerOptions(
    model_repository=("simulated",),
    model_control_mode="explicit",
    load_model=("*",),
    allow_client_shm=True,
)
LOG = {
    "log_file": "", "log_info": True, "log_warning": True, "log_error": True,
    "log_verbose_level": 0, "log_format": "default",
}  # fmt: skip
TRACE = {
    "trace_level": ["OFF"], "trace_rate": "1000", "trace_count": "-1",
    "log_frequency": "0", "trace_file": "", "trace_mode": "triton",
}  # fmt: skip
DISABLED = (
    "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
)
TRAVERSAL = "model name must not contain path traversal characters"
NOT_UNSIGNED = "attempt to access JSON non-unsigned-integer as unsigned-integer"
POLLING = "explicit model load / unload is not allowed if polling is enabled"


def run(scenario: Scenario, *, options: ServerOptions | None = None, **more: Any) -> None:
    models = {"m": model(), "rep": model(DECOUPLED)}
    HttpWorld(models, options=options, **more).run_bounded(scenario)


def ask(
    path: str,
    body: Any = None,
    *,
    options: ServerOptions | None = None,
    method: str = "",
) -> tuple[int, Any]:
    """Status and JSON (None where there is no body) of one request; a body makes it a POST."""
    found: list[tuple[int, Any]] = []

    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            sent = b"" if body is None else body if isinstance(body, bytes) else encode(body)
            verb = method or ("GET" if body is None else "POST")
            await client.send(head(verb, path, f"Content-Length: {len(sent)}") + sent)
            response = await client.response()
            expected = "application/json" if response.body else None
            assert response.headers.get("content-type") == expected
            found.append((response.status, response.json() if response.body else None))

    run(scenario, options=options)
    return found[0]


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


# --- health, metadata, statistics ----------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/v2/models/m", "/v2/models/m/versions/1", "/v2/models/m/versions/01"]
)
def test_what_a_model_is(path: str) -> None:
    tensor = {"name": "INPUT", "datatype": "FP32", "shape": [-1, -1]}
    assert ask(path) == (200, {
        "name": "m", "versions": ["1"], "platform": "simulated",
        "inputs": [tensor], "outputs": [tensor],
    })  # fmt: skip
    assert ask(f"{path}/ready") == (200, None)
    status, config = ask(f"{path}/config")
    assert (status, config["name"], config["max_batch_size"]) == (200, "m", 8)
    status, found = ask(f"{path}/stats")
    assert (status, [each["name"] for each in found["model_stats"]]) == (200, ["m"])


@pytest.mark.parametrize(("path", "status", "text"), [
    ("/v2/models/nope", 404, "Request for unknown model: 'nope' is not found"),
    ("/v2/models/m/versions/9", 404, "Request for unknown model: 'm' version 9 is not found"),
    ("/v2/models/nope/config", 404, "Request for unknown model: 'nope' is not found"),
    ("/v2/models/nope/stats", 400, "requested model 'nope' is not available"),
    ("/v2/models/m/versions/9/stats", 400,
     "requested model version is not available for model 'm'"),
    ("/v2/models/nope/ready", 400, "Model version not ready"),
    ("/v2/models/m/versions/9/ready", 400, "Model version not ready"),
    ("/v2/models/m/versions/v1", 404, "Not Found"),
    ("/v2/models/m/versions/1/trace/setting", 404, "Not Found"),
    ("/v2/models/nope/trace/setting", 400, "Request for unknown model : nope"),
])  # fmt: skip
def test_what_is_not_there(path: str, status: int, text: str) -> None:
    assert ask(path) == (status, {"error": text})


def test_the_server_itself() -> None:
    assert ask("/v2/health/live") == (200, None)
    assert ask("/v2/health/ready") == (200, None)
    status, metadata = ask("/v2")
    assert (status, metadata["name"], metadata["version"]) == (200, "triton", "simulated")
    assert metadata["extensions"][:3] == ["classification", "sequence", "model_repository"]
    status, found = ask("/v2/models/stats")
    assert (status, [each["name"] for each in found["model_stats"]]) == (200, ["m", "rep"])


def test_while_the_server_exits() -> None:
    async def scenario(world: HttpWorld) -> None:
        world.core.repository.stop_accepting()
        async with world.connect() as client:
            for path, text in (
                ("/v2/health/live", "Server exiting"),
                ("/v2/health/ready", "Server exiting"),
                ("/v2/models/m/ready", "Server not ready"),
                ("/v2/models/m", "Server not ready"),
                ("/v2/models/stats", "Server not ready"),
            ):
                response = await client.get(path)
                assert (response.status, response.json()) == (503, {"error": text})
            response = await client.post("/v2/repository/index")
            assert (response.status, response.json()) == (503, {"error": "Server not ready"})
            await client.send(infer("m", 1.0))
            assert (await client.response()).status == 200

    run(scenario)


# --- repository ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/repository/any/index"])
def test_the_index(path: str) -> None:
    rows = [{"name": name, "version": "1", "state": "READY"} for name in ("m", "rep")]
    for body in (b"", {}, {"ready": True}, {"ready": False}):
        assert ask(path, body) == (200, rows)
    assert ask(path, {"ready": "x"}) == (
        400, {"error": "Invalid value for 'ready': expected a boolean"},
    )  # fmt: skip
    status, found = ask(path, b"{")
    assert status == 500
    assert found["error"].startswith("failed to parse the request JSON buffer: ")


def test_models_are_unloaded_and_loaded() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            for body in (b"", b'{"parameters":{"unload_dependents":true}}'):
                assert (await client.post("/v2/repository/models/m/unload", body)).status == 200
            await world.settle()
            response = await client.post("/v2/repository/index", b'{"ready":true}')
            assert [row["name"] for row in response.json()] == ["rep"]
            response = await client.post("/v2/repository/index")
            assert response.json()[0] == {
                "name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded",
            }  # fmt: skip
            assert (await client.get("/v2/models/m/ready")).status == 400
            assert (await client.post("/v2/repository/models/m/load")).status == 200
            assert (await client.get("/v2/models/m/ready")).status == 200

    run(scenario, options=EXPLICIT)


@pytest.mark.parametrize(("name", "body", "status", "text"), [
    ("m", {"parameters": {"config": 1}}, 500,
     "Unable to parse 'config': attempt to access JSON non-string as string"),
    ("m", {"parameters": {"x": "y"}}, 500, "unexpected error on creating Triton parameter"),
    ("m", {"parameters": {"file:1/model.py": "="}}, 200, ""),
    ("m", {"parameters": []}, 500, "attempt to get members for non-object"),
    ("%20", {}, 400, "Model name cannot be empty. Please enter a valid name to deploy."),
    ("..", {}, 400, f"invalid model name '..', {TRAVERSAL}"),
    ("%2e%2e", {}, 400, f"invalid model name '..', {TRAVERSAL}"),
    ("a%2Fb", {}, 400, f"invalid model name 'a/b', {TRAVERSAL}"),
])  # fmt: skip
def test_mistakes_in_loading(name: str, body: Any, status: int, text: str) -> None:
    path = f"/v2/repository/models/{name}/load"
    expected = {"error": text} if text else None
    assert ask(path, body, options=EXPLICIT) == (status, expected)


def test_what_a_load_carries_reaches_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: HttpWorld) -> None:
        found: list[Any] = []

        async def load(*arguments: Any) -> None:
            found.append(arguments)

        monkeypatch.setattr(world.core.control_plane, "load_model", load)
        content = bytes(range(256))
        body = {"parameters": {
            "config": '{"max_batch_size":4}',
            "file:1/model.bin": base64.b64encode(content).decode(),
        }}  # fmt: skip
        async with world.connect() as client:
            for repository in ("", "r/"):
                path = f"/v2/repository/{repository}models/m/load"
                assert (await client.post(path, encode(body))).status == 200
        parameters = {"config": '{"max_batch_size":4}', "file:1/model.bin": content}
        assert found == [("", "m", parameters), ("r", "m", parameters)]

    run(scenario, options=EXPLICIT)


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_control_that_is_not_allowed(verb: str) -> None:
    assert ask(f"/v2/repository/models/m/{verb}", b"") == (503, {"error": POLLING})
    text = "'repository_name' specification is not supported"
    path = f"/v2/repository/r/models/m/{verb}"
    assert ask(path, b"", options=EXPLICIT) == (501, {"error": text})


def test_an_order_to_unload_is_understood_before_it_is_obeyed() -> None:
    text = "Unable to parse 'unload_dependents': attempt to access JSON non-boolean as boolean"

    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            body = b'{"parameters":{"unload_dependents":1}}'
            response = await client.post("/v2/repository/models/m/unload", body)
            assert (response.status, response.json()) == (500, {"error": text})
            assert (await client.get("/v2/models/m/ready")).status == 200

    run(scenario, options=EXPLICIT)


# --- settings ------------------------------------------------------------------------------------


def test_log_settings() -> None:
    assert ask("/v2/logging") == (200, LOG)
    changed = {"log_verbose_level": 1, "log_format": "ISO8601", "log_info": False}
    assert ask("/v2/logging", {**changed, "log_error": None}) == (200, {**LOG, **changed})


@pytest.mark.parametrize(("body", "status", "text"), [
    ({"log_file": "/tmp/x"}, 501,
     "log file location can not be updated through network protocol"),
    ({"log_format": "x"}, 503, "invalid argument for --log_format, got: x"),
    ({"log_info": 1}, 500,
     "Unable to parse 'log_info': attempt to access JSON non-boolean as boolean"),
    ({"log_verbose_level": -1}, 500, f"Unable to parse 'log_verbose_level': {NOT_UNSIGNED}"),
    (b"", 500, "failed to parse the request JSON buffer: The document is empty. at 0"),
])  # fmt: skip
def test_mistakes_in_log_settings(body: Any, status: int, text: str) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            sent = body if isinstance(body, bytes) else encode({"log_warning": False, **body})
            response = await client.post("/v2/logging", sent)
            assert (response.status, response.json()) == (status, {"error": text})
            assert (await client.get("/v2/logging")).json() == LOG

    run(scenario)


@pytest.mark.parametrize("path", ["/v2/trace/setting", "/v2/models/m/trace/setting"])
def test_trace_settings(path: str) -> None:
    assert ask(path) == (200, TRACE)
    assert ask(path, {"trace_level": ["OFF"], "trace_rate": None}) == (200, TRACE)


def test_51_a_model_s_settings_fall_back_to_the_global_ones() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            of_model, of_all = "/v2/models/m/trace/setting", "/v2/trace/setting"

            async def change(path: str, body: object) -> Any:
                response = await client.post(path, json.dumps(body).encode())
                assert response.status == 200
                assert response.json() == (await client.get(path)).json()
                return response.json()

            assert await change(of_model, {"trace_rate": "5"}) == {**TRACE, "trace_rate": "5"}
            off = {"trace_level": ["OFF"], "trace_count": "7", "log_frequency": "3"}
            assert await change(of_all, off) == {**TRACE, "trace_count": "7", "log_frequency": "3"}
            expected = {**TRACE, "trace_rate": "5", "trace_count": "7", "log_frequency": "3"}
            assert (await client.get(of_model)).json() == expected
            assert await change(of_model, {"trace_rate": None}) == {
                **expected,
                "trace_rate": "1000",
            }
            assert await change(of_all, {"trace_count": None, "log_frequency": None}) == TRACE
            assert (await client.get(of_model)).json() == TRACE

    run(scenario)


@pytest.mark.parametrize(("path", "body", "status", "text"), [
    ("/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}, 400,
     "Attempting to set invalid trace setting :trace file name is not given"),
    ("/v2/models/m/trace/setting", {"trace_level": ["TENSORS"], "trace_rate": "0"}, 400,
     "Attempting to set invalid trace setting :sample rate must be non-zero"),
    ("/v2/trace/setting", {"trace_file": None}, 501,
     "trace file location can not be updated through network protocol"),
    ("/v2/trace/setting", {"trace_level": ["OFF", "TENSORS"]}, 400,
     "Expect only one trace level 'OFF' is specified"),
    ("/v2/trace/setting", {"trace_rate": 5}, 500,
     "Unable to parse 'trace_rate': attempt to access JSON non-string as string"),
    ("/v2/trace/setting", {"trace_count": "-2"}, 400,
     "Unable to parse 'trace_count'. Expecting value >= -1, got:-2"),
    ("/v2/trace/setting", b"", 500,
     "failed to parse the request JSON buffer: The document is empty. at 0"),
    ("/v2/models/nope/trace/setting", {}, 400, "Request for unknown model : nope"),
])  # fmt: skip
def test_mistakes_in_trace_settings(path: str, body: Any, status: int, text: str) -> None:
    assert ask(path, body) == (status, {"error": text})


# --- shared memory -------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[shared_memory.SharedMemory]:
    region = shared_memory.SharedMemory(create=True, size=8192)
    yield region
    region.close()
    region.unlink()


@pytest.mark.parametrize("kind", ["system", "cuda"])
def test_without_the_operator_s_leave_no_memory_is_shared(kind: str) -> None:
    root = f"/v2/{kind}sharedmemory"
    assert ask(f"{root}/status") == (200, [])
    # The gate comes before anything that might be wrong with the body.
    assert ask(f"{root}/region/r/register", b"{") == (501, {"error": DISABLED})
    assert ask(f"{root}/region/r/unregister", b"") == (501, {"error": DISABLED})
    assert ask(f"{root}/unregister", b"") == (501, {"error": DISABLED})


def test_system_regions_come_and_go(memory: shared_memory.SharedMemory) -> None:
    root = "/v2/systemsharedmemory"

    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            for name, offset, size in (("b", 0, 16), ("a", 4096, 4096)):
                body = {"key": f"/{memory.name}", "offset": offset, "byte_size": size}
                response = await client.post(f"{root}/region/{name}/register", encode(body))
                assert response.status == 200
                assert response.body == b""
            a = {"name": "a", "key": f"/{memory.name}", "offset": 4096, "byte_size": 4096}
            b = {"name": "b", "key": f"/{memory.name}", "offset": 0, "byte_size": 16}
            assert (await client.get(f"{root}/status")).json() == [a, b]
            assert (await client.get(f"{root}/region/a/status")).json() == [a]
            response = await client.get(f"{root}/region/c/status")
            assert response.status == 404
            assert response.json() == {"error": "Unable to find system shared memory region: 'c'"}
            response = await client.post(f"{root}/region/a/register", encode({**a, "offset": 0}))
            assert response.status == 400
            assert response.json() == {"error": "shared memory region 'a' already in manager"}
            for name in ("c", "a"):
                assert (await client.post(f"{root}/region/{name}/unregister")).status == 200
            assert (await client.get(f"{root}/status")).json() == [b]
            assert (await client.post(f"{root}/unregister")).status == 200
            assert (await client.get(f"{root}/status")).json() == []

    run(scenario, options=EXPLICIT)


@pytest.mark.parametrize(("kind", "body", "text"), [
    ("system", {"byte_size": 1}, "Shared memory register request has no 'key' field"),
    ("system", {"key": "/x"}, "Shared memory register request has no 'byte_size' field"),
    ("cuda", {"byte_size": 1}, "Shared memory register request has no 'raw_handle' field"),
    ("cuda", {"raw_handle": {"b64": "AAAA"}, "byte_size": 1, "device_id": 0},
     "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t"),
    ("cuda", {"raw_handle": {"b64": base64.b64encode(bytes(64)).decode()}, "byte_size": 1,
              "device_id": 0},
     "failed to register CUDA shared memory region: 'r', GPUs not supported"),
])  # fmt: skip
def test_mistakes_in_registering(kind: str, body: Any, text: str) -> None:
    path = f"/v2/{kind}sharedmemory/region/r/register"
    assert ask(path, body, options=EXPLICIT) == (400, {"error": text})
    text = f"'region name' is necessary to register {kind} shared memory region"
    path = f"/v2/{kind}sharedmemory/register"
    assert ask(path, body, options=EXPLICIT) == (400, {"error": text})


def test_cuda_regions_are_never_there() -> None:
    root = "/v2/cudasharedmemory"
    assert ask(f"{root}/status", options=EXPLICIT) == (200, [])
    assert ask(f"{root}/region/r/status", options=EXPLICIT) == (
        404, {"error": "Unable to find cuda shared memory region: 'r'"},
    )  # fmt: skip
    assert ask(f"{root}/unregister", b"", options=EXPLICIT) == (200, None)


def test_a_region_in_use_stays_until_the_reply(memory: shared_memory.SharedMemory) -> None:
    root = "/v2/systemsharedmemory"
    use = {"shared_memory_region": "r", "shared_memory_byte_size": 4}
    tensor = {"name": "INPUT", "datatype": "FP32", "shape": [1, 1], "parameters": use}
    output = {"name": "INPUT", "parameters": {**use, "shared_memory_offset": 4}}
    body = encode({"inputs": [tensor], "outputs": [output]})

    async def scenario(world: HttpWorld) -> None:
        assert memory.buf is not None
        memory.buf[:4] = b"\x00\x00\x80\x3f"
        async with world.connect() as client, world.connect() as other:
            region = {"key": memory.name, "byte_size": 8}
            assert (await other.post(f"{root}/region/r/register", encode(region))).status == 200
            await client.send(head("POST", "/v2/models/slow/infer", f"Content-Length: {len(body)}"))
            await client.send(body)
            await world.settle()
            assert (await other.post(f"{root}/region/r/unregister")).status == 200
            assert len((await other.get(f"{root}/status")).json()) == 1
            response = await client.response()
            assert response.json()["outputs"] == [
                {"name": "INPUT", "datatype": "FP32", "shape": [1, 1]}
            ]
            assert bytes(memory.buf[:8]) == b"\x00\x00\x80\x3f" * 2
            assert (await other.get(f"{root}/status")).json() == []

    world = HttpWorld({"slow": model(PLAIN, seconds=1.0)}, options=EXPLICIT)
    world.run_bounded(scenario)


@pytest.mark.parametrize("mistake", ["shape", "output", "goes"])
def test_a_region_is_let_go_whatever_happens(
    mistake: str, memory: shared_memory.SharedMemory
) -> None:
    root = "/v2/systemsharedmemory"
    use = {"shared_memory_region": "r", "shared_memory_byte_size": 4}
    shape = [1, 2] if mistake == "shape" else [1, 1]
    tensor = {"name": "INPUT", "datatype": "FP32", "shape": shape, "parameters": use}
    elsewhere = {**use, "shared_memory_region": "s"}
    output = {"name": "INPUT", "parameters": elsewhere if mistake == "output" else use}
    body = encode({"inputs": [tensor], "outputs": [output]})

    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as other:
            region = {"key": memory.name, "byte_size": 8}
            assert (await other.post(f"{root}/region/r/register", encode(region))).status == 200
            async with world.connect() as client:
                path = "/v2/models/slow/infer"
                await client.send(head("POST", path, f"Content-Length: {len(body)}") + body)
                await world.settle()
                if mistake != "goes":
                    assert (await client.response()).status in (400, 404)
            await world.settle()
            assert (await other.post(f"{root}/region/r/unregister")).status == 200
            assert (await other.get(f"{root}/status")).json() == []

    world = HttpWorld({"slow": model(PLAIN, seconds=1.0)}, options=EXPLICIT)
    world.run_bounded(scenario)


# --- the end -------------------------------------------------------------------------------------


def test_probes_turn_traffic_away_before_anything_ends() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            world.core.control_plane.stop()
            for path in ("/v2/health/live", "/v2/health/ready"):
                response = await client.get(path)
                assert (response.status, response.json()) == (503, {"error": "Server exiting"})
            assert (await client.get("/v2/models/m")).status == 200  # what still works, works

    run(scenario, options=EXPLICIT)


# --- restriction ---------------------------------------------------------------------------------

ROUTES = {
    "health": ["GET /v2/health/live", "GET /v2/health/ready", "GET /v2/models/m/ready",
               "GET /v2/models/m/versions/1/ready"],
    "metadata": ["GET /v2", "GET /v2/models/m", "GET /v2/models/m/versions/1"],
    "inference": ["POST /v2/models/m/infer", "POST /v2/models/m/versions/1/infer",
                  "POST /v2/models/m/generate", "POST /v2/models/m/versions/1/generate",
                  "POST /v2/models/m/generate_stream",
                  "POST /v2/models/m/versions/1/generate_stream"],
    "shared-memory": [f"{verb} /v2/{kind}sharedmemory{region}/{action}"
                      for kind in ("system", "cuda") for region in ("", "/region/r")
                      for verb, action in (("GET", "status"), ("POST", "register"),
                                           ("POST", "unregister"))],
    "model-config": ["GET /v2/models/m/config", "GET /v2/models/m/versions/1/config"],
    "model-repository": ["POST /v2/repository/index", "POST /v2/repository/r/index",
                         "POST /v2/repository/models/m/load",
                         "POST /v2/repository/models/m/unload",
                         "POST /v2/repository/r/models/m/load",
                         "POST /v2/repository/r/models/m/unload"],
    "statistics": ["GET /v2/models/m/stats", "GET /v2/models/m/versions/1/stats",
                   "GET /v2/models/stats"],
    "trace": ["GET /v2/trace/setting", "POST /v2/trace/setting",
              "GET /v2/models/m/trace/setting", "POST /v2/models/m/trace/setting"],
    "logging": ["GET /v2/logging", "POST /v2/logging"],
}  # fmt: skip


def test_every_category_has_its_routes() -> None:
    assert set(ROUTES) == {category.value for category in Category}


@pytest.mark.parametrize("category", ROUTES)
def test_a_restricted_route_wants_its_header(category: str) -> None:
    restricted = RestrictedApis.parse([f"{category}:X-Key=secret"])
    text = {"error": "This API is restricted, expecting header 'X-Key'"}

    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            for name, wanted in ROUTES.items():
                for method, path in (route.split() for route in wanted):
                    for lines in ((), ("X-Key: wrong",), ("X-Key: secret",)):
                        await client.send(head(method, path, *lines))
                        response = await client.response()
                        refused = name == category and lines != ("X-Key: secret",)
                        assert (response.status == 403) == refused, (path, lines)
                        if refused:
                            assert response.json() == text
                    # The restriction comes before the method, and behind the route.
                    await client.send(head("DELETE", path))
                    expected = 403 if name == category else 405
                    assert (await client.response()).status == expected

    run(scenario, options=EXPLICIT, guard=Guard(restricted))
