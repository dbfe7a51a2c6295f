"""Calls as generated services see them: grpclib's `Stream`, over this server's own transport.

Owns the messages of one call between its connection and the service method that serves it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import betterproto


class UnaryStream:
    """A call with one request, already here, and one reply, kept until the method returns."""

    __slots__ = ("_request", "reply")

    def __init__(self, request: betterproto.Message) -> None:
        self._request: betterproto.Message | None = request
        self.reply: betterproto.Message | None = None

    async def recv_message(self) -> betterproto.Message | None:
        request, self._request = self._request, None
        return request

    async def send_message(self, message: betterproto.Message) -> None:
        self.reply = message

    async def __aiter__(self) -> AsyncIterator[betterproto.Message]:
        request = await self.recv_message()
        if request is not None:
            yield request
