"""REST bodies of the shared-memory extension: register requests and status rows.

Owns their fields and the texts for what is missing. Whether a key may be opened and a span fits is
for the owner of the regions.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Final

from protocol.json_text import JsonValue, as_string, as_unsigned, member, members_of
from protocol.status import invalid_arg, unsupported
from protocol.v2_json_control import parse_object

CUDA_HANDLE_BYTES: Final = 64  # sizeof(cudaIpcMemHandle_t)


@dataclass(frozen=True, slots=True)
class SystemRegion:
    """A POSIX shared-memory object to map; `byte_size` bytes from `offset` on."""

    name: str
    key: str
    offset: int
    byte_size: int


@dataclass(frozen=True, slots=True)
class CudaRegion:
    """Device memory that another process exported as `raw_handle`."""

    name: str
    raw_handle: bytes
    device_id: int
    byte_size: int


def check_client_shared_memory(allowed: bool) -> None:
    """Raise UNSUPPORTED where the operator has not allowed clients to register memory."""
    if not allowed:
        raise unsupported(
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' "
            "to enable."
        )


def parse_register(
    kind: str, name: str, body: bytes | memoryview, max_size: int
) -> SystemRegion | CudaRegion:
    """The region to register as `name`; `kind` is "system" or "cuda". Raises ServerError."""
    if not name:
        raise invalid_arg(f"'region name' is necessary to register {kind} shared memory region")
    members = parse_object(body, max_size)
    if kind == "cuda":
        return _parse_cuda(name, members)
    key = as_string(_field(members, "key"), "key")
    offset = as_unsigned(members.get("offset", 0), "offset")
    return SystemRegion(name, key, offset, _byte_size(members))


def _parse_cuda(name: str, members: dict[str, JsonValue]) -> CudaRegion:
    encoded = as_string(member(members_of(_field(members, "raw_handle")), "b64"), "b64")
    try:
        handle = binascii.a2b_base64(encoded.encode("utf-8", "surrogateescape"))
    except binascii.Error:
        handle = b""
    if len(handle) != CUDA_HANDLE_BYTES:
        raise invalid_arg("'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t")
    byte_size = _byte_size(members)
    return CudaRegion(
        name, handle, as_unsigned(_field(members, "device_id"), "device_id"), byte_size
    )


def _field(members: dict[str, JsonValue], name: str) -> JsonValue:
    if name not in members:
        raise invalid_arg(f"Shared memory register request has no '{name}' field")
    return members[name]


def _byte_size(members: dict[str, JsonValue]) -> int:
    return as_unsigned(_field(members, "byte_size"), "byte_size")


def system_status_row(region: SystemRegion) -> dict[str, str | int]:
    return {
        "name": region.name,
        "key": region.key,
        "offset": region.offset,
        "byte_size": region.byte_size,
    }


def cuda_status_row(region: CudaRegion) -> dict[str, str | int]:
    return {
        "name": region.name,
        "device_id": region.device_id,
        "byte_size": region.byte_size,
    }
