"""Every mistake that a gRPC client can make, with the code and the words that it gets."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.conformance import grpc_models

Code: TypeAlias = grpc.StatusCode
Request = Any

SIMPLE = [("INPUT0", "INT32", [1, 16]), ("INPUT1", "INT32", [1, 16])]
P = "[request id: q] "
NOTE = (
    ". NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to "
    "be prepended to each input shape. If you want to specify the full shape including the batch "
    "dim in your input dims config, try setting max_batch_size to zero. See the model "
    "configuration docs for more info on max_batch_size."
)
SIZES = {"INT32": 4, "FP32": 4, "FP16": 2, "BYTES": 4}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("errors")
    grpc_models.write_repeat(repository)
    grpc_models.link_sample(repository, "simple")
    grpc_models.write_identities(repository)
    with run_server(
        repository,
        "--allow-client-shm=true",
        "--model-control-mode=explicit",
        "--load-model=*",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: Any) -> Iterator[Any]:
    """The service, `ident_FP64` being unloaded."""
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        unload = service_pb2.RepositoryModelUnloadRequest(model_name="ident_FP64")
        stub.RepositoryModelUnload(unload)
        yield stub


def infer(
    model: str = "simple",
    inputs: list[tuple[str, str, list[int]]] | None = None,
    *,
    raw: list[bytes] | None = None,
    version: str = "",
    outputs: tuple[str, ...] = (),
    **parameters: object,
) -> Request:
    """A request with raw tensors of zeros, all as it should be but for what is said."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version, id="q")
    for name, datatype, shape in SIMPLE if inputs is None else inputs:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        count = 1
        for size in shape:
            count *= max(size, 0)
        if raw is None:
            request.raw_input_contents.append(bytes(count * SIZES.get(datatype, 4)))
    request.raw_input_contents.extend(raw or [])
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in parameters.items():
        set_parameter(request.parameters[name], value)
    return request


def set_parameter(parameter: Any, value: object) -> None:
    """Numbers are int64; a tuple names the field itself; None leaves it unset."""
    match value:
        case None:
            parameter.SetInParent()
        case (str(field), inner):
            setattr(parameter, field, inner)
        case bool():
            parameter.bool_param = value
        case int():
            parameter.int64_param = value
        case float():
            parameter.double_param = value
        case _:
            parameter.string_param = value


def with_contents(field: str, values: list[Any], *, model: str = "ident_FP32") -> Request:
    datatype = model.removeprefix("ident_")
    request = infer(model, [("INPUT0", datatype, [1, len(values)])], raw=[])
    getattr(request.inputs[0].contents, field).extend(values)
    return request


def with_input_parameters(**parameters: object) -> Request:
    request = infer("ident_FP32", [("INPUT0", "FP32", [1, 1])], raw=[])
    for name, value in parameters.items():
        set_parameter(request.inputs[0].parameters[name], value)
    return request


def with_output_parameters(**parameters: object) -> Request:
    request = infer("ident_FP32", [("INPUT0", "FP32", [1, 1])], outputs=("OUTPUT0",))
    for name, value in parameters.items():
        set_parameter(request.outputs[0].parameters[name], value)
    return request


def mixed() -> Request:
    request = infer(raw=[bytes(64)])
    request.inputs[0].contents.int_contents.extend([0] * 16)
    return request


def doubled() -> Request:
    request = with_contents("int_contents", [1], model="ident_INT32")
    request.inputs[0].contents.fp32_contents.append(1.0)
    return request


def both_sources() -> Request:
    request = with_input_parameters(shared_memory_region="r", shared_memory_byte_size=4)
    request.inputs[0].contents.fp32_contents.append(0.0)
    return request


FLOAT1 = [("INPUT0", "FP32", [1, 1])]
BYTES1 = [("INPUT0", "BYTES", [1, 1])]
BYTES2 = [("INPUT0", "BYTES", [1, 2])]
WORD = struct.pack("<I", 1) + b"x"
UNKNOWN_TYPE = "invalid value type for"

INFER: list[tuple[str, Request, Code, str]] = [
    ("E1", infer("nope"), Code.NOT_FOUND, "Request for unknown model: 'nope' is not found"),
    ("E2", infer(version="7"), Code.NOT_FOUND,
     "Request for unknown model: 'simple' version 7 is not found"),
    ("E3", infer("ident_FP64", FLOAT1), Code.NOT_FOUND,
     "Request for unknown model: 'ident_FP64' has no available versions"),
    ("E4", infer("ident_FP64", FLOAT1, version="1"), Code.UNAVAILABLE,
     "Request for unknown model: 'ident_FP64' version 1 is not at ready state"),
    ("E6", infer("rep"), Code.UNIMPLEMENTED,
     "ModelInfer RPC doesn't support models with decoupled transaction policy"),
    ("E18", with_output_parameters(classification=1, shared_memory_region="r",
                                   shared_memory_byte_size=4), Code.INVALID_ARGUMENT,
     "output can't set both 'shared_memory_region' and 'classification'"),
    ("E20", infer(inputs=SIMPLE[:1]), Code.INVALID_ARGUMENT,
     P + "expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but "
     "missing required input(s) ['INPUT1']. Please provide all required input(s)."),
    ("E21", infer(inputs=[SIMPLE[0], ("X", "INT32", [1, 16])]), Code.INVALID_ARGUMENT,
     "unexpected inference input 'X' for model 'simple'"),
    ("E22", infer(outputs=("X",)), Code.INVALID_ARGUMENT,
     "unexpected inference output 'X' for model 'simple'"),
    ("E23", infer(inputs=[SIMPLE[0], SIMPLE[0]]), Code.INVALID_ARGUMENT,
     P + "input 'INPUT0' already exists in request"),
    ("E24", infer(outputs=("OUTPUT0", "OUTPUT0")), Code.INVALID_ARGUMENT,
     P + "output 'OUTPUT0' already exists in request"),
    ("E25", infer(inputs=[SIMPLE[0], ("INPUT1", "FP32", [1, 16])]), Code.INVALID_ARGUMENT,
     P + "inference input 'INPUT1' data-type is 'FP32', but model 'simple' expects 'INT32'"),
    ("E25 <invalid>", infer(inputs=[SIMPLE[0], ("INPUT1", "X32", [1, 16])]), Code.INVALID_ARGUMENT,
     P + "inference input 'INPUT1' data-type is '<invalid>', but model 'simple' expects 'INT32'"),
    ("E26", infer(inputs=[SIMPLE[0], ("INPUT1", "INT32", [1, 8])]), Code.INVALID_ARGUMENT,
     P + "unexpected shape for input 'INPUT1' for model 'simple'. Expected [-1,16], got [1,8]"
     + NOTE),
    ("E27", infer(inputs=[SIMPLE[0], ("INPUT1", "INT32", [1, -1])]), Code.INVALID_ARGUMENT,
     P + "All input dimensions should be specified for input 'INPUT1' for model 'simple', got "
     "[1,-1]"),
    ("E28", infer(inputs=[("INPUT0", "INT32", [9, 16]), ("INPUT1", "INT32", [9, 16])]),
     Code.INVALID_ARGUMENT, P + "inference request batch-size must be <= 8 for 'simple'"),
    ("E29", infer(inputs=[("INPUT0", "INT32", [2, 16]), ("INPUT1", "INT32", [3, 16])]),
     Code.INVALID_ARGUMENT, P + "input 'INPUT1' batch size does not match other inputs for "
     "'simple'"),
    ("E30", infer("ident_FP32", FLOAT1, raw=[bytes(8)]), Code.INVALID_ARGUMENT,
     P + "input byte size mismatch for input 'INPUT0' for model 'ident_FP32'. Expected 4, got 8"),
    ("E31 fewer", infer("ident_BYTES", BYTES2, raw=[WORD]), Code.INVALID_ARGUMENT,
     P + "expected 2 string elements for inference input 'INPUT0' for model 'ident_BYTES', got 1"),
    ("E31 more", infer("ident_BYTES", BYTES1, raw=[WORD * 2]), Code.INVALID_ARGUMENT,
     P + "unexpected number of string elements 2 for inference input 'INPUT0' for model "
     "'ident_BYTES', expecting 1"),
    ("E32", infer("ident_BYTES", BYTES2, raw=[WORD + b"\0\0"]), Code.INVALID_ARGUMENT,
     P + "incomplete string length indicator for inference input 'INPUT0' for model "
     "'ident_BYTES', expecting 4 bytes but only 2 bytes available. Please make sure the string "
     "length indicator is in one buffer."),
    ("E41 input", with_input_parameters(shared_memory_region="r", shared_memory_byte_size=4),
     Code.NOT_FOUND, "Unable to find shared memory region: 'r'"),
    ("E41 output", with_output_parameters(shared_memory_region="r", shared_memory_byte_size=4),
     Code.NOT_FOUND, "Unable to find shared memory region: 'r'"),
    ("E47", infer(triton_x=1), Code.INVALID_ARGUMENT,
     ("parameter keys starting with 'triton_' are reserved for Triton usage. Only the following "
     "keys starting with 'triton_' are allowed: triton_enable_empty_final_response")),
    ("E49 priority", infer(priority="1"), Code.INVALID_ARGUMENT,
     "invalid value type for 'priority' parameter, expected int64_param or uint64_param."),
    ("E49 negative", infer(priority=-1), Code.INVALID_ARGUMENT,
     "invalid value for 'priority', expected value >= 0."),
    ("E49 start", infer(sequence_start=1), Code.INVALID_ARGUMENT,
     "invalid value type for 'sequence_start' parameter, expected bool_param."),
    ("E49 end", infer(sequence_end="x"), Code.INVALID_ARGUMENT,
     "invalid value type for 'sequence_end' parameter, expected bool_param."),
    ("E49 timeout", infer(timeout="1"), Code.INVALID_ARGUMENT,
     "invalid value type for 'timeout' parameter, expected int64_param."),
    ("E49 sequence", infer(sequence_id=True), Code.INVALID_ARGUMENT,
     "invalid value type for 'sequence_id' parameter, expected int64_param or string_param."),
    ("sequence name", infer(sequence_id=129 * "s"), Code.UNIMPLEMENTED,
     "string correlation ID cannot be longer than 128 characters"),
    ("E60", infer(version="x"), Code.INVALID_ARGUMENT,
     ("failed to get model version from specified version string 'x' (details: stol), version "
     "should be an integral value > 0")),
    ("E60 digits first", infer(version="1abc"), Code.INVALID_ARGUMENT,
     ("failed to get model version from specified version string '1abc' (details: stol), version "
     "should be an integral value > 0")),
    ("E60 negative", infer(version="-1"), Code.INVALID_ARGUMENT,
     "invalid model version specified '-1' , version should be an integral value > 0"),
    ("custom uint64", infer(k=("uint64_param", 1)), Code.INVALID_ARGUMENT,
     "invalid value type for 'k' parameter, expected int64_param, bool_param, or string_param."),
    ("custom unset", infer(k=None), Code.INVALID_ARGUMENT,
     "invalid value type for 'k' parameter, expected int64_param, bool_param, or string_param."),
    ("contents and raw", mixed(), Code.INVALID_ARGUMENT,
     ("contents field must not be specified when using raw_input_contents for 'INPUT0' for model "
     "'simple'")),
    ("contents and shared memory", both_sources(), Code.INVALID_ARGUMENT,
     ("unexpected 'content' provided when using shared memory for input tensor 'INPUT0' for model "
     "'ident_FP32'")),
    ("no data", infer(raw=[bytes(64)]), Code.INVALID_ARGUMENT,
     "unable to find data for input tensor 'INPUT1' for model 'simple' in request."),
    ("wrong contents", with_contents("int64_contents", [1]), Code.INVALID_ARGUMENT,
     ("unexpected explicit tensor data for input tensor 'INPUT0' for model 'ident_FP32' of type "
     "'INT64', expected datatype 'FP32'")),
    ("two contents", doubled(), Code.INVALID_ARGUMENT,
     ("unexpected explicit tensor data for input tensor 'INPUT0' for model 'ident_INT32', binary "
     "data was already supplied.")),
    ("region kind", with_input_parameters(shared_memory_region=1), Code.INVALID_ARGUMENT,
     ("invalid value type for 'shared_memory_region' parameter for tensor 'INPUT0', expected "
     "string_param.")),
    ("offset kind", with_input_parameters(shared_memory_region="r", shared_memory_offset="x"),
     Code.INVALID_ARGUMENT, ("invalid value type for 'shared_memory_offset' parameter for tensor "
     "'INPUT0', expected int64_param.")),
    ("offset alone", with_input_parameters(shared_memory_offset=1), Code.INVALID_ARGUMENT,
     ("'shared_memory_offset' can not be specified without 'shared_memory_region' parameter for "
     "tensor 'INPUT0'")),
    ("size alone", with_input_parameters(shared_memory_byte_size=1), Code.INVALID_ARGUMENT,
     ("'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for "
     "tensor 'INPUT0'")),
    ("region alone", with_input_parameters(shared_memory_region="r"), Code.INVALID_ARGUMENT,
     ("'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for "
     "tensor 'INPUT0'")),
    ("classification kind", with_output_parameters(classification="1"), Code.INVALID_ARGUMENT,
     "invalid value type for 'classification' parameter, expected int64_param"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "code", "text"), [
    pytest.param(*rest, id=name) for name, *rest in INFER
])  # fmt: skip
def test_inference_mistakes(stub: Any, request_: Request, code: Code, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_, timeout=20)

    assert (caught.value.code(), caught.value.details()) == (code, text)
    keys = {key for key, _ in caught.value.trailing_metadata()}
    assert "grpc-status-details-bin" not in keys

    # On a stream the same is said in its place, with the request's id, and ends nothing.
    if not text.startswith("ModelInfer RPC doesn't"):
        first, second = stub.ModelStreamInfer(iter([request_, infer()]), timeout=20)
        assert (first.error_message, first.infer_response.id) == (text, "q")
        assert second.infer_response.id == "q"
        assert not second.error_message


def test_what_looks_like_a_mistake_and_is_none(stub: Any) -> None:
    for request in (
        infer(triton_enable_empty_final_response=False),
        infer(priority=("uint64_param", 1)),
        infer(a=1, b=True, c=1.5, d="x"),
        infer(version="1"),
        with_contents("fp32_contents", [1.0, 2.0]),
    ):
        assert stub.ModelInfer(request, timeout=20).id == "q"


def register(**fields: object) -> Request:
    given = {"name": "e", "key": "/nope", "byte_size": 8, **fields}
    return service_pb2.SystemSharedMemoryRegisterRequest(**given)


def load(name: str, **parameters: object) -> Request:
    request = service_pb2.RepositoryModelLoadRequest(model_name=name)
    for key, value in parameters.items():
        set_parameter(request.parameters[key.replace("__", ":")], value)
    return request


def trace(**settings: list[str]) -> Request:
    request = service_pb2.TraceSettingRequest()
    for name, values in settings.items():
        request.settings[name].value.extend(values)
    return request


def logging(**settings: object) -> Request:
    request = service_pb2.LogSettingsRequest()
    for name, value in settings.items():
        match value:
            case bool():
                request.settings[name].bool_param = value
            case int():
                request.settings[name].uint32_param = value
            case _:
                request.settings[name].string_param = value
    return request


CUDA = service_pb2.CudaSharedMemoryRegisterRequest(
    name="c", raw_handle=bytes(64), device_id=0, byte_size=8
)
TRAVERSAL = "model name must not contain path traversal characters"

CONTROL: list[tuple[str, str, Request, Code, str]] = [
    ("E1 metadata", "ModelMetadata", service_pb2.ModelMetadataRequest(name="nope"),
     Code.NOT_FOUND, "Request for unknown model: 'nope' is not found"),
    ("E1 config", "ModelConfig", service_pb2.ModelConfigRequest(name="nope"),
     Code.NOT_FOUND, "Request for unknown model: 'nope' is not found"),
    ("statistics", "ModelStatistics", service_pb2.ModelStatisticsRequest(name="nope"),
     Code.INVALID_ARGUMENT, "requested model 'nope' is not available"),
    *(
        (f"E60 {method} {version[:6]}", method, request(name="simple", version=version),
         Code.INVALID_ARGUMENT, ("failed to get model version from specified version string "
         f"'{version}' (details: stol), version should be an integral value > 0"))
        for method, request in (
            ("ModelReady", service_pb2.ModelReadyRequest),
            ("ModelMetadata", service_pb2.ModelMetadataRequest),
            ("ModelConfig", service_pb2.ModelConfigRequest),
            ("ModelStatistics", service_pb2.ModelStatisticsRequest),
        )
        for version in ("1abc", "9223372036854775808", 5000 * "9")
    ),
    ("E60 statistics", "ModelStatistics",
     service_pb2.ModelStatisticsRequest(name="simple", version="-1"), Code.INVALID_ARGUMENT,
     "invalid model version specified '-1' , version should be an integral value > 0"),
    ("E60 ready", "ModelReady", service_pb2.ModelReadyRequest(name="simple", version="x"),
     Code.INVALID_ARGUMENT, ("failed to get model version from specified version string 'x' "
     "(details: stol), version should be an integral value > 0")),
    ("E37", "SystemSharedMemoryRegister", register(), Code.INTERNAL,
     "Unable to open shared memory region: '/nope'"),
    ("E38", "SystemSharedMemoryRegister", register(key="//"), Code.INVALID_ARGUMENT,
     "cannot register shared memory region 'e' - invalid shm key '//'"),
    ("E39", "SystemSharedMemoryRegister",
     register(key="/triton_python_backend_shm_region_x"), Code.INVALID_ARGUMENT,
     ("cannot register shared memory region 'e' with key '/triton_python_backend_shm_region_x' as "
     "the key contains the reserved prefix 'triton_python_backend_shm_region_'")),
    ("E46 name", "SystemSharedMemoryRegister", register(name=""), Code.INVALID_ARGUMENT,
     "'region name' is necessary to register system shared memory region"),
    ("E41 system status", "SystemSharedMemoryStatus",
     service_pb2.SystemSharedMemoryStatusRequest(name="x"), Code.NOT_FOUND,
     "Unable to find system shared memory region: 'x'"),
    ("E41 cuda status", "CudaSharedMemoryStatus",
     service_pb2.CudaSharedMemoryStatusRequest(name="x"), Code.NOT_FOUND,
     "Unable to find cuda shared memory region: 'x'"),
    ("no GPU", "CudaSharedMemoryRegister", CUDA, Code.INVALID_ARGUMENT,
     "failed to register CUDA shared memory region: 'c', GPUs not supported"),
    ("repository index", "RepositoryIndex",
     service_pb2.RepositoryIndexRequest(repository_name="x"), Code.UNIMPLEMENTED,
     "'repository_name' specification is not supported"),
    ("E59 unknown", "RepositoryModelLoad", load("nope"), Code.INTERNAL,
     "failed to load 'nope', failed to poll from model repository"),
    ("load name empty", "RepositoryModelLoad", load("  "), Code.INVALID_ARGUMENT,
     "Model name cannot be empty. Please enter a valid name to deploy."),
    ("load name up", "RepositoryModelLoad", load(" .. "), Code.INVALID_ARGUMENT,
     f"invalid model name ' .. ', {TRAVERSAL}"),
    ("load name path", "RepositoryModelLoad", load("a/b"), Code.INVALID_ARGUMENT,
     f"invalid model name 'a/b', {TRAVERSAL}"),
    ("load config kind", "RepositoryModelLoad", load("simple", config=1), Code.INVALID_ARGUMENT,
     "invalid value type for load parameter 'config', expected string_param."),
    ("load file kind", "RepositoryModelLoad", load("simple", file__1="x"), Code.INVALID_ARGUMENT,
     "invalid value type for load parameter 'file:1', expected bytes_param."),
    ("load unknown", "RepositoryModelLoad", load("simple", x="y"), Code.INVALID_ARGUMENT,
     "unrecognized load parameter 'x'."),
    ("trace file", "TraceSetting", trace(trace_file=["/tmp/x"]), Code.UNIMPLEMENTED,
     "trace file location can not be updated through network protocol"),
    ("trace levels", "TraceSetting", trace(trace_level=["OFF", "TENSORS"]), Code.INVALID_ARGUMENT,
     "Expect only one trace level 'OFF' is specified"),
    ("trace rate", "TraceSetting", trace(trace_rate=["x"]), Code.INVALID_ARGUMENT,
     "Unable to parse 'trace_rate', got: x"),
    ("trace range", "TraceSetting", trace(trace_rate=["4294967296"]), Code.INVALID_ARGUMENT,
     "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: 4294967296"),
    ("trace count", "TraceSetting", trace(trace_count=["-2"]), Code.INVALID_ARGUMENT,
     "Unable to parse 'trace_count'. Expecting value >= -1, got: -2"),
    ("trace twice", "TraceSetting", trace(log_frequency=["1", "2"]), Code.INVALID_ARGUMENT,
     "expect only 1 value for 'log_frequency'"),
    ("trace on", "TraceSetting", trace(trace_level=["TIMESTAMPS"]), Code.INVALID_ARGUMENT,
     "Attempting to set invalid trace setting :trace file name is not given"),
    ("trace model", "TraceSetting", service_pb2.TraceSettingRequest(model_name="nope"),
     Code.INVALID_ARGUMENT, "Request for unknown model : nope"),
    ("log file", "LogSettings", logging(log_file="/tmp/x", log_info=False), Code.UNIMPLEMENTED,
     "log file location can not be updated through network protocol"),
    ("log switch", "LogSettings", logging(log_info=1), Code.INVALID_ARGUMENT,
     "expect boolean for 'log_info'"),
    ("log level", "LogSettings", logging(log_verbose_level="1", log_info=False),
     Code.INVALID_ARGUMENT, "expect int32 for 'log_verbose_level'"),
    ("log format kind", "LogSettings", logging(log_format=True), Code.INVALID_ARGUMENT,
     "expect string for 'log_format'"),
    ("log format", "LogSettings", logging(log_format="x", log_info=False), Code.INVALID_ARGUMENT,
     "invalid argument for log_format, got: x"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "request_", "code", "text"), [
    pytest.param(*rest, id=name) for name, *rest in CONTROL
])  # fmt: skip
def test_control_mistakes(stub: Any, method: str, request_: Request, code: Code, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, method)(request_, timeout=20)

    assert caught.value.code() is code
    # What a model lacks to be loaded is said beyond Triton's words.
    assert caught.value.details() == text or caught.value.details().startswith(f"{text}: ")
    # None of it was done in part.
    settings = stub.LogSettings(service_pb2.LogSettingsRequest()).settings
    assert settings["log_info"].bool_param


def test_unload_parameters_have_their_kind(stub: Any) -> None:
    request = service_pb2.RepositoryModelUnloadRequest(model_name="nope")
    assert stub.RepositoryModelUnload(request) == service_pb2.RepositoryModelUnloadResponse()
    request.parameters["unload_dependents"].string_param = "x"
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelUnload(request)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert caught.value.details() == (
        "invalid value type for 'unload_dependents' parameter, expected bool_param."
    )


def test_operators_who_allowed_nothing_are_not_asked(sample_server: Any) -> None:
    disabled = (
        "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to "
        "enable."
    )
    polling = "explicit model load / unload is not allowed if polling is enabled"
    cases: list[tuple[str, Request, Code, str]] = [
        ("SystemSharedMemoryRegister", register(), Code.UNIMPLEMENTED, disabled),
        ("SystemSharedMemoryUnregister", service_pb2.SystemSharedMemoryUnregisterRequest(),
         Code.UNIMPLEMENTED, disabled),
        ("CudaSharedMemoryRegister", CUDA, Code.UNIMPLEMENTED, disabled),
        ("CudaSharedMemoryUnregister", service_pb2.CudaSharedMemoryUnregisterRequest(),
         Code.UNIMPLEMENTED, disabled),
        ("RepositoryModelLoad", load("simple"), Code.UNAVAILABLE, polling),
        ("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="simple"),
         Code.UNAVAILABLE, polling),
    ]  # fmt: skip
    with grpc.insecure_channel(sample_server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for method, request, code, text in cases:
            with pytest.raises(grpc.RpcError) as caught:
                getattr(stub, method)(request, timeout=20)
            assert (caught.value.code(), caught.value.details()) == (code, text), method
        status = stub.SystemSharedMemoryStatus(service_pb2.SystemSharedMemoryStatusRequest())
        assert not status.regions
        cuda = stub.CudaSharedMemoryStatus(service_pb2.CudaSharedMemoryStatusRequest())
        assert not cuda.regions


def test_a_forged_line_in_a_name_stays_one_line_of_the_log(stub: Any, server: Any) -> None:
    name = 'x\nI1124 00:49:40.123456 1 forged.py:1] "all is well"'
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelLoad(load(name), timeout=20)
    assert caught.value.code() is Code.INTERNAL
    stub.ServerLive(service_pb2.ServerLiveRequest())
    written = [line for line in server.lines if "forged.py" in line]
    assert written
    assert not any(line.startswith("I1124") for line in written)
