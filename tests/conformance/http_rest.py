"""Requests to a real REST port, down to the byte, and the repository that the HTTP tests serve."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.conformance import grpc_models

PATIENCE: Final = 20.0  # seconds after which a test has failed
MAX_INPUT: Final = 1 << 20
FLAGS: Final = (
    "--id=x",
    "--model-control-mode=explicit",
    "--load-model=*",
    "--allow-client-shm=true",
    f"--http-max-input-size={MAX_INPUT}",
    "--http-header-forward-pattern=my_.*|timeout",
)

IDENTITY: Final = """backend: "identity"
max_batch_size: %d
input { name: "INPUT0" data_type: %s dims: %s }
output { name: "OUTPUT0" data_type: %s dims: %s %s }
"""
PROMPT: Final = """
input { name: "PROMPT" data_type: TYPE_STRING dims: [ 1 ] }
input { name: "STREAM" data_type: TYPE_BOOL dims: [ 1 ] optional: true }
output { name: "TEXT" data_type: TYPE_STRING dims: [ -1 ] }
"""

# Says its prompt, and what the request brought beside it.
TELLER: Final = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(each) for each in requests]
    def answer(self, request):
        prompt = pb_utils.get_input_tensor_by_name(request, "PROMPT").as_numpy().ravel()
        seen = json.loads(request.parameters())
        text = [*prompt, json.dumps(seen, sort_keys=True).encode()] if seen else prompt
        return pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", np.array(text, np.object_))])
"""

# One response per word of its prompt; the word "error" is one, "wait" takes its time. Leaves word
# of a client that has gone.
SPEAKER: Final = """
import pathlib, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.speak, args=(request,)).start()
        return None
    def speak(self, request):
        sender = request.get_response_sender()
        prompt = pb_utils.get_input_tensor_by_name(request, "PROMPT").as_numpy().ravel()[0]
        for word in prompt.decode().split():
            if word == "error":
                error = pb_utils.TritonError("no such word", pb_utils.TritonError.NOT_FOUND)
                sender.send(pb_utils.InferenceResponse(error=error))
            elif word == "wait":
                until = time.monotonic() + 10
                while time.monotonic() < until and not request.is_cancelled():
                    time.sleep(0.005)
                if request.is_cancelled():
                    pathlib.Path({notes!r}, "cancelled " + request.request_id()).touch()
            else:
                text = np.array([word.encode()], np.object_)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", text)]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
DECOUPLED: Final = "model_transaction_policy { decoupled: true }"
BUSY: Final = """
max_batch_size: 1
dynamic_batching {
  default_queue_policy {
    max_queue_size: 1 allow_timeout_override: true default_timeout_microseconds: 10000000
  }
}
"""


def write_repository(repository: Path, notes: Path) -> None:
    """Every model that the HTTP tests ask; some leave files in `notes`."""
    grpc_models.link_sample(repository, "simple")
    grpc_models.write_identities(repository)
    grpc_models.write_repeat(repository)
    grpc_models.write_curious(repository)
    grpc_models.write_patient(repository, notes)
    write = grpc_models.write_model
    fp32 = "TYPE_FP32"
    write(repository, "two_wild", IDENTITY % (0, fp32, "[ -1, -1 ]", fp32, "[ -1, -1 ]", ""))
    write(repository, "fixed", IDENTITY % (0, fp32, "[ 2, 4 ]", fp32, "[ 2, 4 ]", ""))
    text = "TYPE_STRING"
    write(repository, "one_string", IDENTITY % (0, text, "[ 1 ]", text, "[ 1 ]", ""))
    labels = 'label_filename: "labels.txt"'
    write(repository, "classes", IDENTITY % (8, fp32, "[ 4 ]", fp32, "[ 4 ]", labels))
    (repository / "classes" / "labels.txt").write_text("cat\ndog\nowl\nfox\n")
    write(repository, "plain_classes", IDENTITY % (8, fp32, "[ 4 ]", fp32, "[ 4 ]", ""))
    write(repository, "teller", PROMPT, TELLER)
    write(repository, "speaker", PROMPT + DECOUPLED, SPEAKER.replace("{notes!r}", repr(str(notes))))
    busy = grpc_models.TENSORS.replace("[ -1 ]", "[ 1 ]") + BUSY
    code = grpc_models.PATIENT.format(notes=str(notes)).replace("as_numpy()[0]", "as_numpy()[0][0]")
    write(repository, "busy", busy, code)


@dataclass(frozen=True)
class Response:
    """One reply; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        text: str = self.json()["error"]
        return text


class Rest:
    """A client that keeps its connection."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._connection = http.client.HTTPConnection(address, timeout=PATIENCE)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self._connection.request(method, path, sent, dict(headers or {}))
        with self._connection.getresponse() as response:
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, fields, response.read())

    def get(self, path: str, **headers: str) -> Response:
        return self.ask("GET", path, headers=headers)

    def post(
        self, path: str, body: bytes | Mapping[str, Any] = b"", headers: Any = None
    ) -> Response:
        return self.ask("POST", path, body, headers)

    def infer(
        self,
        model: str,
        body: Mapping[str, Any],
        binary: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """An inference with a JSON header, and with tensors behind it where `binary` has some."""
        text = json.dumps(body).encode()
        headers = dict(headers or {})
        if binary:
            headers["Inference-Header-Content-Length"] = str(len(text))
        return self.post(f"/v2/models/{model}/infer", text + binary, headers)

    def close(self) -> None:
        self._connection.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once it holds; what is waited for happens in another process."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def is_refused(address: str) -> bool:
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # the kernel had accepted it, but nobody else did
        return False
    return False


def converse(address: str, data: bytes) -> bytes:
    """Everything that the server says to `data` until it hangs up."""
    with connect(address) as peer:
        peer.sendall(data)
        return hear_out(peer)


def hear_out(peer: socket.socket) -> bytes:
    heard = b""
    while data := peer.recv(65536):
        heard += data
    return heard


def tensor(
    name: str, datatype: str, shape: list[int], data: Any = None, **parameters: Any
) -> dict[str, Any]:
    """One member of `inputs` or, without a datatype, of `outputs`."""
    given: dict[str, Any] = {"name": name}
    if datatype:
        given |= {"datatype": datatype, "shape": shape}
    if data is not None:
        given["data"] = data
    if parameters:
        given["parameters"] = parameters
    return given


def pair(value: int = 1, size: int = 16) -> list[dict[str, Any]]:
    """Both inputs of `simple`, in JSON."""
    return [tensor(name, "INT32", [1, size], [value] * size) for name in ("INPUT0", "INPUT1")]
