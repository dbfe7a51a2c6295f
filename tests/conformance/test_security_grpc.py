"""What went wrong in inference servers before, tried on the gRPC port; by CVE numbers."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from random import Random
from typing import Any, Final

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from actors.grpc.services import CATEGORIES
from tests.conformance import grpc_models
from tests.conformance.http_rest import connect, wait_for

SERVICE: Final = "/inference.GRPCInferenceService/"
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
CODES: Final = set(grpc.StatusCode) - {grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("models")
    grpc_models.link_sample(repository, "simple")
    grpc_models.write_identities(repository)
    grpc_models.write_repeat(repository)
    with run_server(
        repository,
        "--model-control-mode=explicit",
        "--load-model=*",
        "--allow-client-shm=true",
    ) as running:
        yield running


@pytest.fixture
def channel(server: Any) -> Iterator[grpc.Channel]:
    """A connection; afterwards the server must still live."""
    with grpc.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened
        live = opened.unary_unary(f"{SERVICE}ServerLive")(b"", timeout=20)
        assert pb.ServerLiveResponse.FromString(live).live


def infer(channel: grpc.Channel, request: pb.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
    return outcome(channel, "ModelInfer", request.SerializeToString())


def outcome(channel: grpc.Channel, method: str, message: bytes) -> tuple[grpc.StatusCode, str]:
    path = method if method.startswith("/") else SERVICE + method
    call = channel.unary_unary(path).future(message, timeout=20)
    return call.code(), call.details()


def resident_kib(server: Any) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def identity(shape: list[int], raw: bytes, datatype: str = "FP32") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=f"ident_{datatype}", raw_input_contents=[raw])
    request.inputs.add(name="INPUT0", datatype=datatype, shape=shape)
    return request


# --- files and memory ----------------------------------------------------------------------------


def test_cve_2024_0087_and_0100_no_call_names_a_file_to_write(
    channel: grpc.Channel, tmp_path: Path
) -> None:
    path = tmp_path / "written"
    logs = pb.LogSettingsRequest()
    logs.settings["log_file"].string_param = str(path)
    traces = pb.TraceSettingRequest()
    traces.settings["trace_file"].value.append(str(path))

    assert outcome(channel, "LogSettings", logs.SerializeToString()) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "log file location can not be updated through network protocol",
    )
    assert outcome(channel, "TraceSetting", traces.SerializeToString()) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "trace file location can not be updated through network protocol",
    )
    assert not path.exists()


EDGES = (0, 1, 4096, 8128, 8129, 8191, 8192, 8193, 2**31, 2**32, 2**63 - 1)


def test_cve_2024_0088_no_span_leaves_its_region(channel: grpc.Channel, server: Any) -> None:
    memory = SharedMemory(create=True, size=8192)
    try:
        with grpcclient.InferenceServerClient(server.grpc) as client:
            client.register_system_shared_memory("edges", f"/{memory.name}", 8192)
        inside = 0
        for offset in EDGES:
            for size in EDGES:
                request = pb.ModelInferRequest(model_name="ident_INT8")
                given = request.inputs.add(name="INPUT0", datatype="INT8", shape=[1, 64])
                given.parameters["shared_memory_region"].string_param = "edges"
                given.parameters["shared_memory_offset"].int64_param = offset
                given.parameters["shared_memory_byte_size"].int64_param = size
                code, _ = infer(channel, request)
                assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)
                inside += code is grpc.StatusCode.OK
        assert inside == 0  # none of these sizes is that of the tensor
        key = outcome(
            channel,
            "SystemSharedMemoryRegister",
            pb.SystemSharedMemoryRegisterRequest(
                name="r", key="///triton_python_backend_shm_region_x", byte_size=1
            ).SerializeToString(),
        )
        assert key[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert "reserved prefix" in key[1]
    finally:
        with grpcclient.InferenceServerClient(server.grpc) as client:
            client.unregister_system_shared_memory("edges")
        memory.close()
        memory.unlink()


def test_cve_2025_23323_and_23331_nothing_is_allocated_by_claim(
    channel: grpc.Channel, server: Any
) -> None:
    before = resident_kib(server)
    for shape in (
        [2**40],
        [2**31, 2**31],
        [2**60 + 2, 16],
        [2**62, 4],
        [-1],
        [0, 2**62],
        [2**63 - 1],
    ):
        for raw in (b"", b"abcd", bytes(64)):
            code, _ = infer(channel, identity([1, *shape][:2], raw))
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK)
    claimed = struct.pack("<I", 2**32 - 1) + b"x"
    assert infer(channel, identity([1, 1], claimed, "BYTES"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert resident_kib(server) - before < 4096


def test_cve_2026_24146_outputs_are_counted(channel: grpc.Channel, server: Any) -> None:
    request = identity([1, 1], bytes(4))
    for _ in range(100_000):
        request.outputs.add(name="OUTPUT0")
    before = resident_kib(server)

    code, text = infer(channel, request)

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "already exists in request" in text
    assert resident_kib(server) - before < 65_536


# --- calls that end early ------------------------------------------------------------------------


def test_cve_2025_23322_and_2026_24266_a_stream_may_be_cancelled_at_any_moment(
    channel: grpc.Channel, server: Any
) -> None:
    """Every tenth of the way, many times; the policies' own states are walked in simulation."""
    request = pb.ModelInferRequest(model_name="rep")
    values = np.arange(10, dtype=np.int32)
    for name, kind, array in (
        ("IN", "INT32", values),
        ("DELAY", "UINT32", np.ones(10, np.uint32)),
        ("WAIT", "UINT32", np.zeros(1, np.uint32)),
    ):
        request.inputs.add(name=name, datatype=kind, shape=list(array.shape))
        request.raw_input_contents.append(array.tobytes())
    message = request.SerializeToString()
    stream = channel.stream_stream(f"{SERVICE}ModelStreamInfer")

    def try_some(count: int) -> None:
        for number in range(count):
            call = stream(iter([message] * (number % 3)), timeout=20)
            with suppress(grpc.RpcError):
                for _, _ in zip(range(number % 10), call, strict=False):
                    pass
            call.cancel()

    try_some(100)
    files, memory = server.open_files(), resident_kib(server)
    try_some(400)
    assert server.open_files() <= files + 2
    assert resident_kib(server) - memory < 4096
    with grpcclient.InferenceServerClient(server.grpc) as client:
        row = client.get_inference_statistics("rep", as_json=True)["model_stats"][0]
    assert row["name"] == "rep"
    assert not [line for line in server.lines if "Traceback" in line]


def test_clients_that_vanish_leave_nothing(server: Any, channel: grpc.Channel) -> None:
    assert infer(channel, identity([1, 1], bytes(4)))[0] is grpc.StatusCode.OK
    files = server.open_files()
    for _ in range(50):
        with connect(server.grpc) as peer:
            peer.sendall(PREFACE)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: server.open_files() <= files + 1)


# --- HTTP/2 --------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def said_before_the_end(address: str, data: bytes) -> bytes:
    """What the server says until it hangs up, or is silent for some seconds."""
    heard = b""
    with connect(address) as peer:
        peer.settimeout(5)
        with suppress(ConnectionError, TimeoutError):
            peer.sendall(PREFACE + data)
        with suppress(ConnectionError, TimeoutError):
            while piece := peer.recv(65536):
                heard += piece
    return heard


FLOODS = {
    "SETTINGS": frame(4, 0, 0, struct.pack(">HI", 4, 65535)) * 20_000,
    "PING": frame(6, 0, 0, bytes(8)) * 20_000,
    "rapid reset": b"".join(
        frame(1, 4, stream, b"\x82\x86\x84\x41\x01a") + frame(3, 0, stream, bytes(4))
        for stream in range(1, 20_001, 2)
    ),
    "CONTINUATION": frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"\x40\x01a\x01b" * 2000) * 200,
    "empty CONTINUATION": frame(1, 0, 1, b"\x82") + frame(9, 0, 1) * 20_000,
    "empty DATA": frame(1, 4, 1, b"\x83\x86\x84\x41\x01a") + frame(0, 0, 1) * 20_000,
    "PRIORITY": frame(2, 0, 1, bytes(5)) * 40_000,
    "WINDOW_UPDATE": frame(8, 0, 0, struct.pack(">I", 1)) * 40_000,
}


@pytest.mark.parametrize("flood", FLOODS)
def test_http2_floods_are_cut_short_and_cost_nothing(
    flood: str, server: Any, channel: grpc.Channel
) -> None:
    assert infer(channel, identity([1, 1], bytes(4)))[0] is grpc.StatusCode.OK
    before = resident_kib(server)

    heard = said_before_the_end(server.grpc, FLOODS[flood])

    assert len(heard) < 1 << 20
    assert resident_kib(server) - before < 8192
    assert infer(channel, identity([1, 1], bytes(4)))[0] is grpc.StatusCode.OK


# --- fuzz ----------------------------------------------------------------------------------------


def test_cve_2026_47629_any_message_to_any_rpc_is_answered(
    channel: grpc.Channel, server: Any
) -> None:
    random = Random(3)
    good = [
        identity([1, 2], bytes(8)).SerializeToString(),
        pb.RepositoryModelLoadRequest(model_name="simple").SerializeToString(),
        pb.ModelMetadataRequest(name="simple", version="1").SerializeToString(),
        b"",
    ]
    unary = [
        path for path in CATEGORIES if not path.endswith(("ModelStreamInfer", "Info", "Watch"))
    ]
    files = server.open_files()
    for number in range(1500):
        message = bytearray(random.choice(good) * random.randrange(1, 3))
        for _ in range(random.randrange(6)):
            place = random.randrange(len(message) + 1)
            message[place : place + random.randrange(3)] = random.randbytes(random.randrange(4))
        path = unary[number % len(unary)]
        if path.endswith(("ModelUnload", "LogSettings")):
            continue
        code, text = outcome(channel, path, bytes(message))
        assert code in CODES, (path, bytes(message), code, text)
    assert server.open_files() <= files + 4
    assert not [line for line in server.lines if "Traceback" in line]


def test_no_status_text_breaks_its_frame(channel: grpc.Channel, server: Any) -> None:
    """Texts that repeat what a client said are percent-encoded on the wire."""
    name = "x\r\ngrpc-status: 0\r\n\0é"
    code, text = outcome(
        channel, "ModelMetadata", pb.ModelMetadataRequest(name=name).SerializeToString()
    )
    assert code is grpc.StatusCode.NOT_FOUND
    assert name in text
    with (
        grpcclient.InferenceServerClient(server.grpc) as client,
        pytest.raises(InferenceServerException),
    ):
        client.get_model_metadata("\n")
