"""The models that the gRPC tests ask: small, and each for one purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SAMPLES: Final = Path(__file__).parents[2] / "sample_repository"

# Triton's datatypes as configurations name them → the name on the wire.
DATATYPES: Final = {
    "TYPE_BOOL": "BOOL", "TYPE_UINT8": "UINT8", "TYPE_UINT16": "UINT16", "TYPE_UINT32": "UINT32",
    "TYPE_UINT64": "UINT64", "TYPE_INT8": "INT8", "TYPE_INT16": "INT16", "TYPE_INT32": "INT32",
    "TYPE_INT64": "INT64", "TYPE_FP16": "FP16", "TYPE_FP32": "FP32", "TYPE_FP64": "FP64",
    "TYPE_BF16": "BF16", "TYPE_STRING": "BYTES",
}  # fmt: skip

TENSORS: Final = """
input { name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }
"""

# Waits for its caller to give up, and leaves word of it in a file named by the request.
PATIENT: Final = """
import pathlib, time
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            seconds = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0]
            pathlib.Path({notes!r}, "began " + request.request_id()).touch()
            until = time.monotonic() + float(seconds)
            while time.monotonic() < until and not request.is_cancelled():
                time.sleep(0.005)
            word = "cancelled " if request.is_cancelled() else "ended "
            pathlib.Path({notes!r}, word + request.request_id()).touch()
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(each, "IN").as_numpy())
            ])
            for each in requests
        ]
"""

# One response for each element of its input, from a thread of its own.
STREAMER: Final = """
import threading
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.respond, args=(request,)).start()
        return None
    def respond(self, request):
        sender = request.get_response_sender()
        for value in pb_utils.get_input_tensor_by_name(request, "IN").as_numpy():
            if value < 0:
                error = pb_utils.TritonError("no such element")
                sender.send(pb_utils.InferenceResponse(error=error))
            else:
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", value.reshape(1))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

# Tells what parameters it was given.
CURIOUS: Final = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor("SEEN", np.array([each.parameters().encode()], np.object_))
            ])
            for each in requests
        ]
"""


def write_model(repository: Path, name: str, config: str, code: str = "") -> None:
    """A model of one version; with `code`, one of the Python backend."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    if code:
        (version / "model.py").write_text(code)
        config += ' backend: "python"'
    (repository / name / "config.pbtxt").write_text(config)


def write_identities(repository: Path) -> None:
    """`ident_<datatype>` for every datatype, batching."""
    for kind, datatype in DATATYPES.items():
        write_model(
            repository,
            f"ident_{datatype}",
            f"""backend: "identity" max_batch_size: 8
            input {{ name: "INPUT0" data_type: {kind} dims: [ -1 ] }}
            output {{ name: "OUTPUT0" data_type: {kind} dims: [ -1 ] }}""",
        )


def write_repeat(repository: Path) -> None:
    """`rep`: the repeat backend, and `py_rep`, the like of it in Python."""
    decoupled = "model_transaction_policy { decoupled: true }"
    write_model(repository, "rep", f'backend: "repeat" {decoupled}')
    write_model(repository, "py_rep", TENSORS + decoupled, STREAMER)


def write_patient(repository: Path, notes: Path) -> None:
    """`patient`: as many seconds as its input says, unless its caller gives up; keeps `notes`."""
    write_model(repository, "patient", TENSORS, PATIENT.format(notes=str(notes)))


def write_curious(repository: Path) -> None:
    """`curious`: a JSON text of its request's parameters."""
    write_model(
        repository,
        "curious",
        """input { name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }
        output { name: "SEEN" data_type: TYPE_STRING dims: [ 1 ] }""",
        CURIOUS,
    )


def link_sample(repository: Path, name: str) -> None:
    (repository / name).symlink_to(SAMPLES / name)
