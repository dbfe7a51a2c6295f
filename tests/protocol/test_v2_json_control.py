"""Bodies of the control plane: what each may hold, and the texts for what it may not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest

from protocol import v2_json_control
from protocol.status import ServerError, StatusCode
from protocol.v2_json_control import (
    Clear,
    LogUpdate,
    TraceUpdate,
    check_model_name,
    log_settings_body,
    parse_index,
    parse_load,
    parse_log_update,
    parse_trace_update,
    parse_unload,
    trace_level,
    trace_number,
    trace_settings_body,
)
from protocol.v2_json_shared_memory import (
    CudaRegion,
    SystemRegion,
    check_client_shared_memory,
    cuda_status_row,
    parse_register,
    system_status_row,
)

INTERNAL, INVALID = StatusCode.INTERNAL, StatusCode.INVALID_ARG
UNSUPPORTED, UNAVAILABLE = StatusCode.UNSUPPORTED, StatusCode.UNAVAILABLE
LIMIT = 1 << 20


def body(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def refusal(parser: Callable[[bytes, int], object], value: object) -> tuple[StatusCode, str]:
    with pytest.raises(ServerError) as caught:
        parser(body(value), LIMIT)
    return caught.value.status, caught.value.message


def wrong(name: str, kind: str) -> tuple[StatusCode, str]:
    return INTERNAL, f"Unable to parse '{name}': attempt to access JSON non-{kind} as {kind}"


@pytest.mark.parametrize(
    "parser", [parse_index, parse_load, parse_unload, parse_trace_update, parse_log_update]
)
def test_every_body_is_bounded_and_survives_depth(
    parser: Callable[[bytes, int], object],
) -> None:
    for document in (b'{"ready":' * 100_000, b"[" * 250_000):
        assert refusal(parser, document) == (
            INVALID,
            "JSON nesting depth exceeds maximum allowed limit (100)",
        )
    assert refusal(parser, b" " * (LIMIT + 1))[1].startswith("request JSON size of 1048577 bytes")
    assert refusal(parser, b"{")[0] is INTERNAL


def test_index() -> None:
    assert parse_index(b"", LIMIT) is False
    assert parse_index(b"{}", LIMIT) is False
    assert parse_index(b'{"ready":true}', LIMIT) is True
    bad: list[object] = ["x", 1, None, []]
    for value in bad:
        assert refusal(parse_index, {"ready": value}) == (
            INVALID,
            "Invalid value for 'ready': expected a boolean",
        )


def test_load() -> None:
    assert parse_load(b"", LIMIT) == {}
    assert parse_load(b"{}", LIMIT) == {}
    content = bytes(range(256))
    encoded = base64.b64encode(content).decode()
    parameters = {"config": "{}", "file:1/model.py": encoded, "file:1/empty": ""}
    assert parse_load(body({"parameters": parameters}), LIMIT) == {
        "config": "{}",
        "file:1/model.py": content,
        "file:1/empty": b"",
    }


@pytest.mark.parametrize("text", ["YWJj ZGVm", "YWJjZGVm\n", "YW-Jj_ZGVm", "éYWJjZGVm"])
def test_foreign_characters_in_base64_are_skipped(text: str) -> None:
    assert parse_load(body({"parameters": {"file:x": text}}), LIMIT) == {"file:x": b"abcdef"}


def test_base64_without_padding_is_read() -> None:
    loaded = parse_load(body({"parameters": {"file:x": "YWI", "file:y": "YQ"}}), LIMIT)
    assert loaded == {"file:x": b"ab", "file:y": b"a"}
    status, text = refusal(parse_load, {"parameters": {"file:x": "YWJjZ"}})
    assert status is INVALID
    assert text.startswith("'file:x' is not base64: ")


@pytest.mark.parametrize(
    ("parameters", "outcome"),
    [
        ({"config": {}}, wrong("config", "string")),
        ({"file:1/x": 1}, wrong("file:1/x", "string")),
        ({"other": True}, wrong("other", "string")),
        ({"other": "x"}, (INTERNAL, "unexpected error on creating Triton parameter")),
        (7, (INTERNAL, "attempt to get members for non-object")),
    ],
)
def test_bad_load_parameters(parameters: object, outcome: tuple[StatusCode, str]) -> None:
    assert refusal(parse_load, {"parameters": parameters}) == outcome


def test_base64_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2_json_control, "MAX_BASE64_CHARACTERS", 7)
    assert refusal(parse_load, {"parameters": {"file:x": "YWJjZGVm"}}) == (
        INVALID,
        "'file:x' exceeds the maximum allowed data size limit INT_MAX",
    )


def test_unload() -> None:
    assert parse_unload(b"", LIMIT) is False
    for value in (True, False):
        given = body({"parameters": {"unload_dependents": value}})
        assert parse_unload(given, LIMIT) is value
    wrong_kind = {"parameters": {"unload_dependents": "x"}}
    assert refusal(parse_unload, wrong_kind) == wrong("unload_dependents", "boolean")


@pytest.mark.parametrize("name", ["m", "...", "..m", "m..1", "a b", "a;touch x", "é"])
def test_model_names(name: str) -> None:
    check_model_name(name)


@pytest.mark.parametrize("name", ["", " ", "\t\n"])
def test_empty_model_names(name: str) -> None:
    with pytest.raises(ServerError) as caught:
        check_model_name(name)
    assert (caught.value.status, caught.value.message) == (
        INVALID,
        "Model name cannot be empty. Please enter a valid name to deploy.",
    )


@pytest.mark.parametrize("name", ["..", " .. ", "a/b", "/etc", "../x", ".", "a\\b", "a\0b"])
def test_model_names_that_are_paths(name: str) -> None:
    with pytest.raises(ServerError) as caught:
        check_model_name(name)
    assert (caught.value.status, caught.value.message) == (
        INVALID,
        f"invalid model name '{name}', model name must not contain path traversal characters",
    )


def test_trace_updates() -> None:
    assert parse_trace_update(b"{}", LIMIT) == TraceUpdate()
    assert parse_trace_update(
        body(
            {
                "trace_level": ["TENSORS", "nope", "TIMESTAMPS"],
                "trace_rate": "4294967295",
                "trace_count": "-1",
                "log_frequency": "0",
                "unknown": 7,
            }
        ),
        LIMIT,
    ) == TraceUpdate(("TIMESTAMPS", "TENSORS"), 4294967295, -1, 0)
    cleared = dict.fromkeys(("trace_level", "trace_rate", "trace_count", "log_frequency"))
    assert parse_trace_update(body(cleared), LIMIT) == TraceUpdate(*[Clear.CLEAR] * 4)
    assert parse_trace_update(body({"trace_level": ["OFF"]}), LIMIT) == TraceUpdate(())
    assert parse_trace_update(body({"trace_level": []}), LIMIT) == TraceUpdate(())
    assert trace_level(["OFF"]) == ()


TRACE_FILE = "trace file location can not be updated through network protocol"


@pytest.mark.parametrize(
    ("update", "outcome"),
    [
        (
            b"",
            (
                INTERNAL,
                "failed to parse the request JSON buffer: The document is empty. at 0",
            ),
        ),
        ({"trace_file": "/tmp/x"}, (UNSUPPORTED, TRACE_FILE)),
        ({"trace_rate": 5, "trace_file": None}, (UNSUPPORTED, TRACE_FILE)),
        ({"trace_rate": 5}, wrong("trace_rate", "string")),
        ({"trace_rate": ["5"]}, wrong("trace_rate", "string")),
        ({"trace_level": "OFF"}, wrong("trace_level", "array")),
        ({"trace_level": [1]}, wrong("trace_level", "string")),
        (
            {"trace_level": ["OFF", "TENSORS"]},
            (INVALID, "Expect only one trace level 'OFF' is specified"),
        ),
        ({"trace_rate": "x"}, (INVALID, "Unable to parse 'trace_rate', got: x")),
        ({"trace_count": ""}, (INVALID, "Unable to parse 'trace_count', got: ")),
        (
            {"log_frequency": "-1"},
            (
                INVALID,
                (
                    "Unable to parse 'log_frequency', value is out of range "
                    "[ 0, 4294967295 ], got: -1"
                ),
            ),
        ),
        (
            {"trace_rate": "9" * 30},
            (
                INVALID,
                (
                    "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: "
                    + "9" * 30
                ),
            ),
        ),
        (
            {"trace_count": "2147483648"},
            (
                INVALID,
                (
                    "Unable to parse 'trace_count', value is out of range "
                    "[ -1, 2147483647 ], got: 2147483648"
                ),
            ),
        ),
        (
            {"trace_count": "-2"},
            (INVALID, "Unable to parse 'trace_count'. Expecting value >= -1, got:-2"),
        ),
    ],
)
def test_bad_trace_updates(update: object, outcome: tuple[StatusCode, str]) -> None:
    assert refusal(parse_trace_update, update) == outcome


def test_grpc_spells_one_text_with_a_space() -> None:
    with pytest.raises(ServerError, match=r"Expecting value >= -1, got: -2$"):
        trace_number("trace_count", "-2", separator=" ")


def test_trace_settings_are_text() -> None:
    assert trace_settings_body(
        level=("TIMESTAMPS",), rate=1000, count=-1, log_frequency=0, file="f"
    ) == {
        "trace_level": ["TIMESTAMPS"],
        "trace_rate": "1000",
        "trace_count": "-1",
        "log_frequency": "0",
        "trace_file": "f",
        "trace_mode": "triton",
    }
    assert trace_settings_body(
        level=(),
        rate=1,
        count=2,
        log_frequency=3,
        file="f",
        mode="opentelemetry",
        opentelemetry={"url": "u"},
    ) == {
        "trace_level": ["OFF"],
        "trace_rate": "1",
        "trace_count": "2",
        "url": "u",
        "trace_mode": "opentelemetry",
    }


def test_log_updates() -> None:
    assert parse_log_update(b'{"log_file":null,"log_info":null}', LIMIT) == LogUpdate()
    given = {
        "log_info": False,
        "log_warning": True,
        "log_error": False,
        "log_verbose_level": 2,
        "log_format": "ISO8601",
        "unknown": 7,
    }
    assert parse_log_update(body(given), LIMIT) == LogUpdate(False, True, False, 2, "ISO8601")


LOG_FILE = "log file location can not be updated through network protocol"


@pytest.mark.parametrize(
    ("update", "outcome"),
    [
        (b"", (INTERNAL, "failed to parse the request JSON buffer: The document is empty. at 0")),
        ({"log_info": 1, "log_file": "/tmp/x"}, (UNSUPPORTED, LOG_FILE)),
        ({"log_file": ""}, (UNSUPPORTED, LOG_FILE)),
        ({"log_info": 1}, wrong("log_info", "boolean")),
        ({"log_warning": "true"}, wrong("log_warning", "boolean")),
        ({"log_error": 0}, wrong("log_error", "boolean")),
        ({"log_verbose_level": -1}, wrong("log_verbose_level", "unsigned-integer")),
        ({"log_verbose_level": True}, wrong("log_verbose_level", "unsigned-integer")),
        ({"log_format": 1}, wrong("log_format", "string")),
        (
            {"log_format": "x"},
            (UNAVAILABLE, "invalid argument for --log_format, got: x"),
        ),
    ],
)
def test_bad_log_updates(update: object, outcome: tuple[StatusCode, str]) -> None:
    assert refusal(parse_log_update, update) == outcome


def test_log_settings() -> None:
    assert log_settings_body(
        file="", info=True, warning=True, error=False, verbose_level=0, style="default"
    ) == {
        "log_file": "",
        "log_info": True,
        "log_warning": True,
        "log_error": False,
        "log_verbose_level": 0,
        "log_format": "default",
    }


def register(kind: str, value: object, name: str = "R") -> SystemRegion | CudaRegion:
    return parse_register(kind, name, body(value), LIMIT)


HANDLE = {"b64": base64.b64encode(bytes(64)).decode()}


def test_regions_to_register() -> None:
    system = SystemRegion("R", "/k", 0, 8)
    assert register("system", {"key": "/k", "byte_size": 8}) == system
    assert register("system", {"key": "/k", "byte_size": 2**64 - 1, "offset": 2**63}) == (
        SystemRegion("R", "/k", 2**63, 2**64 - 1)
    )
    cuda = CudaRegion("R", bytes(64), 1, 8)
    assert register("cuda", {"raw_handle": HANDLE, "device_id": 1, "byte_size": 8}) == cuda
    assert system_status_row(system) == {"name": "R", "key": "/k", "offset": 0, "byte_size": 8}
    assert cuda_status_row(cuda) == {"name": "R", "device_id": 1, "byte_size": 8}


def no_field(name: str) -> tuple[StatusCode, str]:
    return INVALID, f"Shared memory register request has no '{name}' field"


BAD_HANDLE = (INVALID, "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t")


@pytest.mark.parametrize(
    ("kind", "value", "outcome"),
    [
        ("system", {}, no_field("key")),
        ("system", {"key": 1}, wrong("key", "string")),
        ("system", {"key": "k"}, no_field("byte_size")),
        ("system", {"key": "k", "byte_size": -1}, wrong("byte_size", "unsigned-integer")),
        ("system", {"key": "k", "byte_size": 2**64}, wrong("byte_size", "unsigned-integer")),
        (
            "system",
            {"key": "k", "byte_size": 1, "offset": "1"},
            wrong("offset", "unsigned-integer"),
        ),
        ("cuda", {}, no_field("raw_handle")),
        (
            "cuda",
            {"raw_handle": "x"},
            (
                INTERNAL,
                "Unable to parse 'b64': attempt to access non-existing object member 'b64'",
            ),
        ),
        ("cuda", {"raw_handle": {"b64": 1}}, wrong("b64", "string")),
        ("cuda", {"raw_handle": {"b64": "AAAA"}}, BAD_HANDLE),
        ("cuda", {"raw_handle": {"b64": "A"}}, BAD_HANDLE),
        ("cuda", {"raw_handle": HANDLE}, no_field("byte_size")),
        ("cuda", {"raw_handle": HANDLE, "byte_size": 1}, no_field("device_id")),
    ],
)
def test_bad_regions(kind: str, value: object, outcome: tuple[StatusCode, str]) -> None:
    with pytest.raises(ServerError) as caught:
        register(kind, value)
    assert (caught.value.status, caught.value.message) == outcome


@pytest.mark.parametrize("kind", ["system", "cuda"])
def test_a_region_needs_a_name(kind: str) -> None:
    with pytest.raises(ServerError) as caught:
        register(kind, {}, name="")
    assert (caught.value.status, caught.value.message) == (
        INVALID,
        f"'region name' is necessary to register {kind} shared memory region",
    )


def test_the_gate() -> None:
    check_client_shared_memory(allowed=True)
    with pytest.raises(ServerError) as caught:
        check_client_shared_memory(allowed=False)
    assert (caught.value.status, caught.value.message) == (
        UNSUPPORTED,
        (
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' "
            "to enable."
        ),
    )
