"""How repositories in object storage are spelled, as Triton spells them.

    gs://bucket/path
    s3://bucket/path    s3://host:port/bucket/path    s3://https://host:port/bucket/path
    as://account/container/path

Pure text; nothing is opened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protocol.status import invalid_arg

# Whoever names a port means a server of his own, and its first path element is the bucket.
_SERVER: Final = re.compile(r"(?:(?P<tls>https?)://)?(?P<host>[^/:]+:\d+)/(?P<rest>.*)")


@dataclass(frozen=True, slots=True)
class CloudLocation:
    """One repository. `text` is what the operator wrote; `bucket` an Azure container as well."""

    text: str
    scheme: str  # gs, s3 or as
    bucket: str
    prefix: str = ""  # without slashes at its ends; "" for the whole bucket
    endpoint: str = ""  # s3 only: a server other than Amazon's
    account: str = ""  # as only

    @property
    def root(self) -> str:
        """`bucket/prefix`, as file systems of object storage name their paths."""
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket


def parse_location(text: str) -> CloudLocation:
    """Read a location that begins with one of the three schemes. Raises INVALID_ARG."""
    scheme, _, rest = text.partition("://")
    endpoint = account = ""
    if scheme == "s3" and (server := _SERVER.fullmatch(rest)) is not None:
        endpoint = f"{server['tls'] or 'http'}://{server['host']}"
        rest = server["rest"]
    parts = [part for part in rest.split("/") if part]
    if scheme == "as":
        account = parts.pop(0) if parts else ""
    if not parts or (scheme == "as" and not account):
        kind = "account and container" if scheme == "as" else "bucket"
        raise invalid_arg(f"repository location '{text}' names no {kind}")
    return CloudLocation(text, scheme, parts[0], "/".join(parts[1:]), endpoint, account)
