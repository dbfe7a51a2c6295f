"""Two REST applications on uvicorn (httptools, uvloop) that answer an inference with its inputs.

`least` is the least that gives the right answer to a right request: parse the JSON, cut the
tensors out, pass them through a batcher, write the response. It takes every request for the one
that it expects, knows no models, and counts nothing.

`full` has the duties that a server's users rely on, each in its plainest form: the path says the
model and the version, and they are looked up; names, datatypes, shapes and sizes of the inputs are
checked, as are the length header and what is left over; a batch runs in the model's own thread;
queue and compute time of each request are added up. It has no limits, time-outs, compression,
shared memory, parameters, priorities or cancellation, and nothing is logged or traced.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn

MAX_BATCH = 64
PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([0-9]+))?/infer")
LENGTH_HEADER = b"inference-header-content-length"


@dataclass
class Counts:
    """What statistics add up, in seconds."""

    requests: int = 0
    executions: int = 0
    failures: int = 0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass
class Model:
    """One version of a model that gives its inputs back."""

    inputs: dict[str, tuple[str, tuple[int, ...]]]
    counts: Counts = field(default_factory=Counts)
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))


class Refused(Exception):
    """A client's mistake, in words for it."""


@dataclass
class Request:
    """What a batcher is given, and where its answer goes."""

    header: dict[str, Any]
    tensors: bytes
    answer: asyncio.Future[tuple[bytes, bytes]]
    arrays: list[np.ndarray[Any, Any]] = field(default_factory=list)
    began: float = 0.0


class Batcher:
    """Collects what has come and answers it together."""

    def __init__(self, model: Model, *, full: bool) -> None:
        self._model = model
        self._full = full
        self._waiting: asyncio.Queue[Request] = asyncio.Queue()

    def put(self, request: Request) -> None:
        self._waiting.put_nowait(request)

    async def run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            if self._full:
                await self._execute(batch)
            for request in batch:
                if not request.answer.done():
                    request.answer.set_result(render(request))

    async def _execute(self, batch: list[Request]) -> None:
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._model.thread, execute, batch)
        ended = time.perf_counter()
        counts = self._model.counts
        counts.executions += 1
        for request in batch:
            counts.requests += 1
            counts.queue_seconds += began - request.began
            counts.compute_seconds += ended - began


def execute(batch: list[Request]) -> None:
    """The model: it does nothing."""


def read(request: Request) -> None:
    """Every input as an array."""
    at = 0
    for tensor in request.header["inputs"]:
        if "data" in tensor:
            array = np.array(tensor["data"], dtype=np.float32)
        else:
            size = tensor["parameters"]["binary_data_size"]
            array = np.frombuffer(request.tensors, np.float32, size // 4, at)
            at += size
        request.arrays.append(array)


def check(request: Request, model: Model) -> None:
    """Raise Refused for what the model cannot take."""
    at, batch_sizes = 0, set()
    inputs = request.header.get("inputs")
    if not isinstance(inputs, list):
        raise Refused("the request has no inputs")
    for tensor in inputs:
        name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
        if name not in model.inputs:
            raise Refused(f"unexpected inference input {name!r}")
        wanted, dims = model.inputs[name]
        if datatype != wanted:
            raise Refused(f"inference input {name!r} is {datatype!r}, but must be {wanted!r}")
        if (
            not isinstance(shape, list)
            or len(shape) != 1 + len(dims)
            or not all(isinstance(dim, int) and dim >= 0 for dim in shape)
            or any(dim not in (-1, given) for dim, given in zip(dims, shape[1:], strict=True))
        ):
            raise Refused(f"unexpected shape {shape} for input {name!r}")
        batch_sizes.add(shape[0])
        count = math.prod(shape)
        if "data" in tensor:
            if not isinstance(tensor["data"], list) or len(tensor["data"]) != count:
                raise Refused(f"input {name!r} has the wrong number of elements")
            continue
        size = tensor.get("parameters", {}).get("binary_data_size")
        if not isinstance(size, int) or size != 4 * count:
            raise Refused(f"input {name!r} has the wrong size")
        at += size
    if at != len(request.tensors):
        raise Refused("the body has the wrong size")
    if {tensor["name"] for tensor in inputs} != set(model.inputs):
        raise Refused("an input is missing")
    if len(batch_sizes) != 1 or max(batch_sizes) > MAX_BATCH:
        raise Refused("the batch size does not fit")


def render(request: Request) -> tuple[bytes, bytes]:
    """The JSON of the response, and the tensors behind it."""
    is_binary = request.header.get("parameters", {}).get("binary_data_output", False)
    outputs, parts = [], []
    for tensor, array in zip(request.header["inputs"], request.arrays, strict=True):
        output = {
            "name": tensor["name"].replace("INPUT", "OUTPUT"),
            "datatype": tensor["datatype"],
            "shape": tensor["shape"],
        }
        if is_binary:
            output["parameters"] = {"binary_data_size": array.nbytes}
            parts.append(array.tobytes())
        else:
            output["data"] = array.ravel().tolist()
        outputs.append(output)
    root = {"model_name": "noop", "model_version": "1", "outputs": outputs}
    return json.dumps(root, separators=(",", ":")).encode(), b"".join(parts)


class Application:
    """The ASGI application; `full` adds the duties."""

    def __init__(self, *, full: bool) -> None:
        model = Model({"INPUT0": ("FP32", (-1,))})
        self._full = full
        self._models = {"noop": {1: model}}
        self._batcher = Batcher(model, full=full)
        self._background: asyncio.Task[None]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            text, tensors = await self._infer(scope, body)
        except (Refused, ValueError) as error:
            await respond(send, 400, json.dumps({"error": str(error)}).encode(), b"")
            return
        await respond(send, 200, text, tensors)

    async def _infer(self, scope: Any, body: bytes) -> tuple[bytes, bytes]:
        model = self._model(scope["path"]) if self._full else self._models["noop"][1]
        headers = dict(scope["headers"])
        length = int(headers.get(LENGTH_HEADER, len(body)))
        if self._full and not 0 <= length <= len(body):
            raise Refused(f"inference header size should be in range (0, {len(body)})")
        header = json.loads(body[:length])
        answer: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        request = Request(header, body[length:], answer)
        if self._full:
            request.began = time.perf_counter()
            try:
                check(request, model)
            except Refused:
                model.counts.failures += 1
                raise
        read(request)
        self._batcher.put(request)
        return await answer

    def _model(self, path: str) -> Model:
        matched = PATH.fullmatch(path)
        versions = self._models.get(matched[1]) if matched else None
        if matched is None or versions is None:
            raise Refused(f"Request for unknown model: {path!r}")
        version = int(matched[2]) if matched[2] else max(versions)
        if version not in versions:
            raise Refused(f"Request for unknown version: {path!r}")
        return versions[version]

    async def _live(self, receive: Any, send: Callable[[Any], Any]) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._background = asyncio.ensure_future(self._batcher.run())
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                self._background.cancel()
                return


async def respond(send: Any, status: int, text: bytes, tensors: bytes) -> None:
    kind = b"application/octet-stream" if tensors else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % (len(text) + len(tensors)))]
    if tensors:
        headers.append((LENGTH_HEADER, b"%d" % len(text)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text + tensors})


def serve(port: int, *, full: bool) -> None:
    """Until it is told to stop."""
    print("ready", flush=True)
    uvicorn.run(
        Application(full=full),
        host="127.0.0.1",
        port=port,
        http="httptools",
        loop="uvloop",
        log_level="warning",
        access_log=False,
        lifespan="on",
    )
