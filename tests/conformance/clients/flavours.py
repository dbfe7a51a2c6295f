"""The four tritonclient flavours behind one way of calling: http, http.aio, grpc and grpc.aio.

A `Flavour` holds one client, notes which of its methods were called, and hides two differences:
asyncio clients are run to the end of each call, and gRPC answers come as dictionaries, as HTTP
ones do. Everything else of a client is left as it is, since it is what is being checked.

Runs inside the environment of any supported tritonclient release.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Awaitable
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict

NAMES = ("http", "http.aio", "grpc", "grpc.aio")
# Threads of the synchronous HTTP client; it needs them for async_infer.
HTTP_CONCURRENCY = 4


class Flavour:
    """One connected client; `name` is one of NAMES."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.http = name.startswith("http")
        self.aio = name.endswith("aio")
        self.module: Any = importlib.import_module(f"tritonclient.{name}")
        self.called: set[str] = set()
        self.loop = asyncio.new_event_loop()
        self.address = address
        # Whether the server may answer as Triton 2.51 does where later releases differ.
        self.accept_older = False
        self.client: Any = self.connect()

    def connect(self) -> Any:
        """A further client of this flavour to the same server; close it with `close`."""
        options = {"concurrency": HTTP_CONCURRENCY} if self.name == "http" else {}

        async def inside_the_loop() -> Any:
            return self.module.InferenceServerClient(self.address)

        if self.aio:
            return self.wait(inside_the_loop())
        return self.module.InferenceServerClient(self.address, **options)

    def wait(self, pending: Awaitable[Any]) -> Any:
        try:
            return self.loop.run_until_complete(pending)
        except asyncio.CancelledError as cancelled:
            # Not an Exception, and here always the other side's doing.
            raise AssertionError("the call was cancelled") from cancelled

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        """Calls the client's method and waits for what it returns."""
        self.called.add(method)
        result = getattr(self.client, method)(*args, **options)
        return self.wait(result) if inspect.isawaitable(result) else result

    def answer(self, method: str, *args: Any, **options: Any) -> Any:
        """As `call`, for methods whose answer is a message: it comes as plain dictionaries."""
        if not self.http:
            options["as_json"] = True
        return self.call(method, *args, **options)

    def tensor(
        self, name: str, array: np.ndarray[Any, Any], datatype: str, *, binary: bool = True
    ) -> Any:
        """An InferInput that holds `array`; over gRPC data is always binary."""
        made = self.module.InferInput(name, list(array.shape), datatype)
        if self.http:
            made.set_data_from_numpy(array, binary_data=binary)
        else:
            made.set_data_from_numpy(array)
        return made

    def output(self, name: str, *, binary: bool = True, class_count: int = 0) -> Any:
        """An InferRequestedOutput."""
        if self.http:
            return self.module.InferRequestedOutput(
                name, binary_data=binary, class_count=class_count
            )
        return self.module.InferRequestedOutput(name, class_count=class_count)

    def described(self, result: Any, name: str) -> dict[str, Any]:
        """What the result says about one output, as a dictionary."""
        found = result.get_output(name)
        assert found is not None, f"there is no output {name}"
        return self._as_dictionary(found)

    def response(self, result: Any) -> dict[str, Any]:
        """The whole message of a result, as a dictionary."""
        return self._as_dictionary(result.get_response())

    def _as_dictionary(self, message: Any) -> dict[str, Any]:
        # The results' own `as_json` makes the text and returns None, in every release so far.
        if self.http:
            return dict(message)
        return dict(MessageToDict(message, preserving_proto_field_name=True))

    def close(self) -> None:
        self.call("close")
        self.loop.close()

    def methods(self) -> set[str]:
        """All public methods of this release's client."""
        return {
            name
            for name, value in inspect.getmembers(self.module.InferenceServerClient)
            if not name.startswith("_") and callable(value)
        }
