"""Small object stores on loopback that speak as much of Google's and Azure's protocols as is read.

They serve objects from a dictionary that a test may change. S3 needs none: moto has a whole one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Objects = dict[str, bytes]
MODIFIED = "2026-01-01T12:00:00.000Z"
MODIFIED_HTTP = "Thu, 01 Jan 2026 12:00:00 GMT"


class _Store(BaseHTTPRequestHandler):
    """One request; a subclass knows the protocol."""

    objects: ClassVar[Objects]
    bucket: ClassVar[str]
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with suppress(ConnectionError):  # clients hang up once they have heard enough
            super().handle()

    def log_message(self, *_: object) -> None:
        """Tests have nothing to read here."""

    def reply(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Google(_Store):
    """objects.list, objects.get and media download of the JSON API."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        query = parse_qs(urlsplit(self.path).query)
        start = f"/storage/v1/b/{self.bucket}/o"
        if path == start:
            prefix = query.get("prefix", [""])[0]
            items = [self._object(key) for key in sorted(self.objects) if key.startswith(prefix)]
            self.reply(200, "application/json", json.dumps({"items": items}).encode())
            return
        key = path.removeprefix("/download").removeprefix(f"{start}/")
        if key not in self.objects:
            self.reply(404, "application/json", b'{"error": {"code": 404, "message": "none"}}')
        elif "media" in query.get("alt", ()) or path.startswith("/download"):
            self._media(self.objects[key])
        else:
            self.reply(200, "application/json", json.dumps(self._object(key)).encode())

    def _media(self, content: bytes) -> None:
        wanted = self.headers.get("Range", "")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1 if last else None]
            place = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self.reply(206, "application/octet-stream", part, Content_Range=place)
        else:
            self.reply(200, "application/octet-stream", content)

    def _object(self, key: str) -> dict[str, str]:
        content = self.objects[key]
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        return {
            "kind": "storage#object",
            "name": key,
            "bucket": self.bucket,
            "size": str(len(content)),
            "md5Hash": md5,
            "etag": md5,
            "generation": "1",
            "timeCreated": MODIFIED,
            "updated": MODIFIED,
        }


class _Azure(_Store):
    """List Blobs and Get Blob, for an account whose name begins the path."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        _, _account, container, *rest = unquote(urlsplit(self.path).path).split("/")
        query = parse_qs(urlsplit(self.path).query)
        if query.get("comp") == ["list"] and container == self.bucket:
            self.reply(200, "application/xml", self._page(query.get("prefix", [""])[0]))
            return
        key = "/".join(rest)
        if container != self.bucket or (rest and key not in self.objects):
            self.reply(404, "application/xml", b"", x_ms_error_code="BlobNotFound")
            return
        content = self.objects.get(key, b"")
        headers = {
            "ETag": self._tag(content),
            "Last_Modified": MODIFIED_HTTP,
            "x_ms_blob_type": "BlockBlob",
            "x_ms_version": "2021-08-06",
        }
        wanted = self.headers.get("x-ms-range") or self.headers.get("Range") or ""
        if wanted and content:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1]
            headers["Content_Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self.reply(206, "application/octet-stream", part, **headers)
        elif wanted:
            self.reply(416, "application/xml", b"", x_ms_error_code="InvalidRange")
        else:
            self.reply(200, "application/octet-stream", content, **headers)

    def _tag(self, content: bytes) -> str:
        return f'"{hashlib.md5(content).hexdigest()}"'

    def _page(self, prefix: str) -> bytes:
        blobs = "".join(
            f"<Blob><Name>{escape(key)}</Name><Properties>"
            f"<Last-Modified>{MODIFIED_HTTP}</Last-Modified>"
            f"<Etag>{escape(self._tag(content))}</Etag>"
            f"<Content-Length>{len(content)}</Content-Length>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            for key, content in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        return (
            '<?xml version="1.0" encoding="utf-8"?>'
            f'<EnumerationResults ContainerName="{self.bucket}">'
            f"<Prefix>{escape(prefix)}</Prefix><Blobs>{blobs}</Blobs><NextMarker/>"
            "</EnumerationResults>"
        ).encode()


@contextmanager
def _serving(kind: type[_Store], bucket: str, objects: Objects) -> Iterator[str]:
    store = type("Store", (kind,), {"bucket": bucket, "objects": objects})
    server = ThreadingHTTPServer(("127.0.0.1", 0), store)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def google(bucket: str, objects: Objects) -> AbstractContextManager[str]:
    """A store at the URL that it yields; give it as STORAGE_EMULATOR_HOST."""
    return _serving(_Google, bucket, objects)


def azure(container: str, objects: Objects) -> AbstractContextManager[str]:
    """A store at the URL that it yields; its blobs are below any account."""
    return _serving(_Azure, container, objects)
