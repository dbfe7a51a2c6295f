"""The admin port as an ASGI application: the console's pages, its JSON and events, metrics.

Owns who may ask (by the name under which the browser came) and how many may watch. It answers from
files read once, and from what the observer says; nothing that it serves can change anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from actors.admin.asgi import (
    JSON,
    Header,
    Page,
    Receive,
    Scope,
    Send,
    begin,
    decline,
    live,
    respond,
)
from actors.admin.frontend import METRICS_TYPE
from actors.channels import Door, Mailbox
from actors.console.observer import MAX_WATCHERS, ConsoleEvent, WatchConsole
from protocol.api_keys import Guard, Reason, Refused
from protocol.json_text import dumps
from protocol.restriction import Category

# Events on their way to one watcher: what is made while it reads the one before.
WATCHER_WINDOW: Final = 4
# A watcher that has not taken an event after this long has gone without saying so.
STALLED_SECONDS: Final = 30.0
# The observer says something every second. After this long it has ended, and so does the stream.
SILENCE_SECONDS: Final = 30.0
# How long a page waits for the observer, which answers within one turn.
OBSERVER_PATIENCE_SECONDS: Final = 5.0

# A browser then asks its user; the key is the password, and the name does not matter.
ASK_BROWSER: Final[tuple[Header, ...]] = (
    (b"www-authenticate", b'Basic realm="troupe", charset="UTF-8"'),
)

_STATIC: Final = Path(__file__).parent / "static"
_FILES: Final[Mapping[str, tuple[str, bytes]]] = {
    "/": ("console.html", b"text/html; charset=utf-8"),
    "/console.css": ("console.css", b"text/css; charset=utf-8"),
    "/console.js": ("console.js", b"text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", b"text/javascript; charset=utf-8"),
    "/api-docs": ("api-docs.html", b"text/html; charset=utf-8"),
    "/api-docs.js": ("api-docs.js", b"text/javascript; charset=utf-8"),
}

# Scripts, styles and data come from this port alone; what a model or a client wrote can be shown,
# but not run, and no other page can frame this one.
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY: Final[tuple[Header, ...]] = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class AllowedHosts:
    """By which names a browser may have come: a name that somebody else can point here is none.

    An address always is, since whoever writes it into a browser means it.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"localhost", *(name.lower() for name in names if name)}

    def allows(self, host: str) -> bool:
        """`host` is the header, with or without a port."""
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdecimal():
            name = host
        if name.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches a port at `address`."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class ConsoleApplication:
    """Everything at the admin port."""

    def __init__(
        self,
        *,
        hosts: AllowedHosts,
        guard: Guard,
        observer: Door[WatchConsole],
        openapi: Callable[[], str],
        metrics: Page | None,
    ) -> None:
        """`observer` takes watchers; without `metrics` there is no metrics page."""
        self._hosts = hosts
        self._guard = guard
        self._observer = observer
        self._watchers = 0
        self._files = {
            path: (kind, (_STATIC / name).read_bytes()) for path, (name, kind) in _FILES.items()
        }
        self._pages: dict[str, tuple[bytes, Page]] = {"/api/snapshot": (JSON, self._snapshot)}
        if metrics is not None:
            self._pages["/metrics"] = self._pages["/metrics/"] = (METRICS_TYPE, metrics)

        async def openapi_page() -> str:
            await trio.lowlevel.checkpoint()
            return openapi()

        self._pages["/openapi.json"] = (JSON, openapi_page)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
        elif scope["type"] == "websocket":
            await decline(send)
        else:
            try:
                await self._answer(scope, receive, send)
            except (trio.BrokenResourceError, trio.TooSlowError):
                await _refuse(send, 503, "nobody looks at the server any more")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, is_head = scope["path"], scope["method"] == "HEAD"
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not self._hosts.allows(hosts[0].decode("latin-1")):
            await _refuse(
                send, 421, "this name is not one of the admin port's; --admin-host adds one"
            )
        elif refused := self._refusal(scope["headers"]):
            asking = refused.reason is Reason.NO_KEY
            await _refuse(
                send, 401 if asking else 403, refused.message, *(ASK_BROWSER if asking else ())
            )
        elif path not in self._files and path not in self._pages and path != "/api/events":
            await _refuse(send, 404, "Not Found")
        elif scope["method"] not in ("GET", "HEAD"):
            await _refuse(send, 405, "Method Not Allowed", (b"allow", b"GET, HEAD"))
        elif path == "/api/events":
            await self._events(receive, send, is_head=is_head)
        elif path in self._files:
            kind, body = self._files[path]
            await respond(send, 200, kind, body, _SECURITY, is_head=is_head)
        else:
            kind, page = self._pages[path]
            body = _encoded(await page())
            await respond(send, 200, kind, body, _SECURITY, is_head=is_head)

    def _refusal(self, headers: Iterable[Header]) -> Refused | None:
        """What stands here is also behind two categories of calls, and so needs what they need."""
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        for category in (Category.STATISTICS, Category.MODEL_REPOSITORY):
            refused = self._guard.refusal(category, given)
            if refused is not None:
                return refused
        return None

    async def _snapshot(self) -> str:
        with self._watch(WATCHER_WINDOW) as (mailbox, door):
            await self._observer.send(WatchConsole(door, stays=False))
            with trio.fail_after(OBSERVER_PATIENCE_SECONDS):
                await mailbox.wait()
            return next(iter(door.drain())).text

    async def _events(self, receive: Receive, send: Send, *, is_head: bool) -> None:
        if self._watchers >= MAX_WATCHERS:
            await _refuse(send, 503, f"{MAX_WATCHERS} watchers are as many as there may be")
            return
        kind = b"text/event-stream; charset=utf-8"
        if is_head:
            await respond(send, 200, kind, b"", _SECURITY)
            return
        self._watchers += 1
        try:
            with self._watch(WATCHER_WINDOW) as (mailbox, door):
                await self._observer.send(WatchConsole(door))
                await begin(send, 200, kind, _SECURITY)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_it_leaves, receive, nursery.cancel_scope)
                    await _pass_on(mailbox, door, send)
                    nursery.cancel_scope.cancel()
        finally:
            self._watchers -= 1

    @staticmethod
    @contextmanager
    def _watch(window: int) -> Iterator[tuple[Mailbox, Door[ConsoleEvent]]]:
        mailbox = Mailbox()
        door: Door[ConsoleEvent] = mailbox.door(window)
        try:
            yield mailbox, door
        finally:
            mailbox.close()


async def _pass_on(mailbox: Mailbox, door: Door[ConsoleEvent], send: Send) -> None:
    """Events, each as one of the browser's, until it takes none any more, or there are none."""
    while True:
        with trio.move_on_after(SILENCE_SECONDS) as silence:
            await mailbox.wait()
        if silence.cancelled_caught:
            return
        for event in door.drain():
            # JSON has no line breaks of its own, so an event's data is one line.
            body = b"event: %s\ndata: %s\n\n" % (event.kind.encode(), _encoded(event.text))
            with trio.move_on_after(STALLED_SECONDS) as patience:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            if patience.cancelled_caught:
                return


async def _until_it_leaves(receive: Receive, watching: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    watching.cancel()


async def _refuse(send: Send, status: int, reason: str, *headers: Header) -> None:
    body = _encoded(dumps({"error": reason}))
    await respond(send, status, JSON, body, [*_SECURITY, *headers])


def _encoded(text: str) -> bytes:
    """UTF-8, whatever a file's name or a model's words are made of."""
    return text.encode("utf-8", "replace")
