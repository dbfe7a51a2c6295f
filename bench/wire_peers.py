"""Servers of other makes that do the work of `bench/wire_server.py`, to be measured beside it.

    python bench/wire_peers.py grpcio-aio --port 8001     ModelInfer through a batching task
    python bench/wire_peers.py grpcio-sync --port 8001    ModelInfer in a thread pool
    python bench/wire_peers.py uvicorn --port 8000        REST, httptools and uvloop, the least work
    python bench/wire_peers.py uvicorn-full --port 8000   REST, with the duties of a server

Each parses a request, hands its tensors to a batcher (but for grpcio-sync, whose threads would only
wait for each other), gives them back and serializes the response. `bench/uvicorn_apps.py` says what
the two applications on uvicorn do.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import grpc

from protocol.proto.messages import ModelInferRequest, ModelInferResponse

SERVICE = "inference.GRPCInferenceService"
MESSAGE_LIMITS = [
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.max_send_message_length", 2**31 - 1),
]


def answer(request: ModelInferRequest) -> ModelInferResponse:
    """The inputs, as outputs."""
    response = ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for tensor in request.inputs:
        output = response.outputs.add()
        output.name = tensor.name.replace("INPUT", "OUTPUT")
        output.datatype = tensor.datatype
        output.shape.extend(tensor.shape)
    response.raw_output_contents.extend(request.raw_input_contents)
    return response


class Batcher:
    """Collects what has come and answers it together, at most 64 at a time."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work
        self._waiting: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()

    async def ask(self, request: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((request, future))
        return await future

    async def run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < 64 and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            for request, future in batch:
                if not future.done():
                    future.set_result(self._work(request))


async def serve_aio(port: int) -> None:
    batcher = Batcher(answer)
    server = grpc.aio.server(options=MESSAGE_LIMITS)

    async def infer(request: ModelInferRequest, _: object) -> ModelInferResponse:
        response: ModelInferResponse = await batcher.ask(request)
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        infer,  # not a lambda: whether to await the answer is decided by what it was defined as
        request_deserializer=ModelInferRequest.FromString,
        response_serializer=ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await batcher.run()


def serve_sync(port: int) -> None:
    server = grpc.server(ThreadPoolExecutor(max_workers=16), options=MESSAGE_LIMITS)
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, _: answer(request),
        request_deserializer=ModelInferRequest.FromString,
        response_serializer=ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", choices=("grpcio-aio", "grpcio-sync", "uvicorn", "uvicorn-full"))
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    match given.server:
        case "grpcio-aio":
            run: Coroutine[Any, Any, None] = serve_aio(given.port)
            asyncio.run(run)
        case "grpcio-sync":
            serve_sync(given.port)
        case name:
            from bench import uvicorn_apps  # its packages are not everybody's

            uvicorn_apps.serve(given.port, full=name == "uvicorn-full")


if __name__ == "__main__":
    main()
