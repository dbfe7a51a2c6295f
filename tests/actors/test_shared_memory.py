"""Memory shared with clients: what may be registered, read and written, and for how long."""

from __future__ import annotations

import gc
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.control.shared_memory import MAX_REGIONS, Lease, SharedMemory
from protocol.inference import OutputPlan, ResponsePlan, SharedMemoryRef, Tensor
from protocol.status import ServerError, StatusCode
from protocol.v2_json_shared_memory import CudaRegion, SystemRegion

PAGE = mmap.ALLOCATIONGRANULARITY
DISABLED = (
    StatusCode.UNSUPPORTED,
    "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.",
)
UINT64 = 2**64


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Where shared-memory objects live; `data` has two pages."""
    (tmp_path / "data").write_bytes(bytes(range(256)) * (2 * PAGE // 256))
    return tmp_path


@pytest.fixture
def memory(objects: Path) -> SharedMemory:
    return SharedMemory(allowed=True, directory=str(objects))


def region(
    name: str = "r", key: str = "/data", offset: int = 0, byte_size: int = 2 * PAGE
) -> SystemRegion:
    return SystemRegion(name, key, offset, byte_size)


def output(content: bytes) -> Tensor:
    return Tensor("OUT", "UINT8", (len(content),), raw=content)


def looked_at(lease: Lease, ref: SharedMemoryRef) -> memoryview:
    view = lease.read(ref)
    assert isinstance(view, memoryview)
    return view


def refusal(call: Callable[[], object]) -> tuple[StatusCode, str]:
    with pytest.raises(ServerError) as caught:
        call()
    return caught.value.status, caught.value.message


async def async_refusal(memory: SharedMemory, wanted: CudaRegion) -> tuple[StatusCode, str]:
    with pytest.raises(ServerError) as caught:
        await memory.register_cuda(wanted)
    return caught.value.status, caught.value.message


def names(memory: SharedMemory) -> list[str]:
    return [each.name for each in memory.system_status("")]


# --- registering ---------------------------------------------------------------------------------


def test_what_is_registered_is_listed_by_name(memory: SharedMemory) -> None:
    memory.register_system(region("b"))
    memory.register_system(region("a", "///data", PAGE, 100))

    assert memory.system_status("") == [region("a", "///data", PAGE, 100), region("b")]
    assert memory.system_status("b") == [region("b")]
    assert refusal(lambda: memory.system_status("c")) == (
        StatusCode.NOT_FOUND, "Unable to find system shared memory region: 'c'"
    )  # fmt: skip


@pytest.mark.parametrize(("wanted", "status", "text"), [
    (region(name=""), StatusCode.INVALID_ARG,
     "'region name' is necessary to register system shared memory region"),
    (region(key="//"), StatusCode.INVALID_ARG,
     "cannot register shared memory region 'r' - invalid shm key '//'"),
    (region(key=""), StatusCode.INVALID_ARG,
     "cannot register shared memory region 'r' - invalid shm key ''"),
    (region(key="//triton_python_backend_shm_region_7"), StatusCode.INVALID_ARG,
     ("cannot register shared memory region 'r' with key '//triton_python_backend_shm_region_7' as "
     "the key contains the reserved prefix 'triton_python_backend_shm_region_'")),
    (region(key="/nope"), StatusCode.INTERNAL, "Unable to open shared memory region: '/nope'"),
    (region(byte_size=2 * PAGE + 1), StatusCode.INVALID_ARG,
     "failed to register shared memory region 'r': invalid args"),
    (region(offset=2**64 - PAGE, byte_size=PAGE), StatusCode.INVALID_ARG,
     "failed to register shared memory region 'r': invalid args"),
    (region(offset=1, byte_size=1), StatusCode.INVALID_ARG,
     ("failed to register shared memory region 'r': unable to process address space"
     "Invalid argument")),
    (region(byte_size=0), StatusCode.INVALID_ARG,
     ("failed to register shared memory region 'r': unable to process address space"
     "Invalid argument")),
])  # fmt: skip
def test_what_cannot_be_registered(
    memory: SharedMemory, wanted: SystemRegion, status: StatusCode, text: str
) -> None:
    gc.collect()  # what earlier tests left to the collector would be counted here
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert refusal(lambda: memory.register_system(wanted)) == (status, text)
    assert names(memory) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    "key", ["../data", "a/../data", "dir", "link", "pipe", ".", "..", "x" * 300, "da\0ta", "\ud800"]
)
def test_only_plain_objects_by_their_own_names_are_opened(
    memory: SharedMemory, objects: Path, key: str
) -> None:
    (objects / "dir").mkdir()
    (objects / "link").symlink_to(objects / "data")
    os.mkfifo(objects / "pipe")

    assert refusal(lambda: memory.register_system(region(key=key))) == (
        StatusCode.INTERNAL, f"Unable to open shared memory region: '{key}'"
    )  # fmt: skip


def test_a_name_is_taken_once_and_its_key_is_judged_first(memory: SharedMemory) -> None:
    memory.register_system(region())

    assert refusal(lambda: memory.register_system(region(key="/nope"))) == (
        StatusCode.ALREADY_EXISTS, "shared memory region 'r' already in manager"
    )  # fmt: skip
    assert refusal(lambda: memory.register_system(region(key="/")))[1].endswith(
        "invalid shm key '/'"
    )


def test_the_number_of_regions_is_bounded(memory: SharedMemory) -> None:
    for number in range(MAX_REGIONS):
        memory.register_system(region(str(number), byte_size=1))

    status, text = refusal(lambda: memory.register_system(region()))
    assert status is StatusCode.INVALID_ARG
    assert f"{MAX_REGIONS} regions are registered, which is the limit" in text
    memory.unregister_system("")
    memory.register_system(region())


async def test_device_memory_is_not_served_without_a_device(memory: SharedMemory) -> None:
    cuda = CudaRegion("c", bytes(64), 0, 10)

    assert await async_refusal(memory, cuda) == (
        StatusCode.INVALID_ARG,
        "failed to register CUDA shared memory region: 'c', GPUs not supported",
    )
    assert await async_refusal(memory, CudaRegion("", b"", 0, 0)) == (
        StatusCode.INVALID_ARG, "'region name' is necessary to register cuda shared memory region"
    )  # fmt: skip
    memory.unregister_cuda("")
    assert memory.cuda_status("") == []
    assert refusal(lambda: memory.cuda_status("c")) == (
        StatusCode.NOT_FOUND, "Unable to find cuda shared memory region: 'c'"
    )  # fmt: skip
    memory.register_system(region("s"))
    memory.unregister_cuda("s")
    assert refusal(lambda: memory.cuda_status("s")) == (
        StatusCode.NOT_FOUND,
        "The region named 's' is registered as system shared memory, not CUDA shared memory",
    )


async def test_without_leave_of_the_operator_nothing_changes_and_anybody_may_ask(
    objects: Path,
) -> None:
    memory = SharedMemory(allowed=False, directory=str(objects))

    for call in (
        lambda: memory.register_system(region()),
        lambda: memory.unregister_system(""),
        lambda: memory.unregister_cuda("x"),
    ):
        assert refusal(call) == DISABLED
    assert await async_refusal(memory, CudaRegion("c", bytes(64), 0, 10)) == DISABLED
    assert memory.system_status("") == []
    assert memory.cuda_status("") == []
    assert memory.lease() is None


# --- using ---------------------------------------------------------------------------------------


def test_a_request_sees_the_client_s_bytes_and_answers_into_them(
    memory: SharedMemory, objects: Path
) -> None:
    memory.register_system(region(offset=PAGE, byte_size=PAGE))
    lease = memory.lease()
    assert lease is not None

    view = looked_at(lease, SharedMemoryRef("r", 3, 5))
    assert bytes(view) == bytes((3, 4, 5, 6, 7))
    assert view.readonly
    lease.write("OUT", SharedMemoryRef("r", 10, 4), output(b"abc"))
    lease.release()

    data = (objects / "data").read_bytes()
    assert data[PAGE + 9 : PAGE + 14] == b"\x09abc\x0d"


@pytest.mark.parametrize(("ref", "status", "text"), [
    (SharedMemoryRef("x", 0, 1), StatusCode.NOT_FOUND,
     "Unable to find shared memory region: 'x'"),
    (SharedMemoryRef("r", 100, 0), StatusCode.INVALID_ARG,
     "Invalid offset for shared memory region: 'r'"),
    (SharedMemoryRef("r", UINT64 - 1, UINT64 - 1), StatusCode.INVALID_ARG,
     "Invalid offset for shared memory region: 'r'"),
    (SharedMemoryRef("r", 99, 2), StatusCode.INVALID_ARG,
     "Invalid offset + byte size for shared memory region: 'r'"),
    (SharedMemoryRef("r", 1, UINT64 - 1), StatusCode.INVALID_ARG,
     (f"Integer overflow detected: byte_size ({UINT64 - 1}) + offset (1) exceeds maximum value "
     f"({UINT64 - 1}) for region 'r'")),
])  # fmt: skip
def test_spans_outside_of_a_region_are_refused(
    memory: SharedMemory, ref: SharedMemoryRef, status: StatusCode, text: str
) -> None:
    memory.register_system(region(byte_size=100))
    lease = memory.lease()
    assert lease is not None
    plan = ResponsePlan((OutputPlan("OUT", shared_memory=ref),))

    assert refusal(lambda: looked_at(lease, ref)) == (status, text)
    assert refusal(lambda: lease.reserve(plan)) == (status, text)
    assert refusal(lambda: lease.write("OUT", ref, output(b""))) == (status, text)
    assert not lease.is_held


BOUNDARIES = st.sampled_from(
    [0, 1, 99, 100, 101, PAGE, 2**31, 2**32, 2**63 - 1, 2**63, UINT64 - 1, UINT64 - 100]
)
SIZES = BOUNDARIES | st.integers(0, UINT64 - 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(offset=SIZES, byte_size=SIZES, size=st.integers(1, 2 * PAGE))
def test_no_span_ever_reaches_beyond_its_region(
    objects: Path, offset: int, byte_size: int, size: int
) -> None:
    memory = SharedMemory(allowed=True, directory=str(objects))
    memory.register_system(region(byte_size=size))
    lease = memory.lease()
    assert lease is not None

    try:
        view = looked_at(lease, SharedMemoryRef("r", offset, byte_size))
    except ServerError:
        assert offset >= size or offset + byte_size > size
    else:
        assert len(view) == byte_size
        assert offset + byte_size <= size


def test_an_output_must_fit_its_span(memory: SharedMemory) -> None:
    memory.register_system(region())
    lease = memory.lease()
    assert lease is not None
    ref = SharedMemoryRef("r", 0, 7)

    assert refusal(lambda: lease.write("OUT", ref, output(bytes(8)))) == (
        StatusCode.INTERNAL,
        (
            "shared memory size specified with the request for output 'OUT' (7 bytes) should be at "
            "least 8 bytes to hold the results"
        ),
    )


def test_an_object_that_was_cut_short_is_not_touched(memory: SharedMemory, objects: Path) -> None:
    memory.register_system(region())
    os.truncate(objects / "data", PAGE)
    lease = memory.lease()
    assert lease is not None

    assert bytes(looked_at(lease, SharedMemoryRef("r", 0, 2))) == b"\x00\x01"
    assert refusal(lambda: looked_at(lease, SharedMemoryRef("r", PAGE, 1))) == (
        StatusCode.INVALID_ARG, "Invalid offset + byte size for shared memory region: 'r'"
    )  # fmt: skip


# --- for how long --------------------------------------------------------------------------------


def test_an_idle_region_goes_at_once(memory: SharedMemory) -> None:
    memory.register_system(region("a"))
    memory.register_system(region("b"))

    memory.unregister_system("unknown")
    memory.unregister_system("a")
    assert names(memory) == ["b"]
    memory.unregister_system("")
    assert names(memory) == []
    assert memory.lease() is None


def test_a_region_in_use_goes_with_its_last_request(memory: SharedMemory) -> None:
    memory.register_system(region())
    first, second = memory.lease(), memory.lease()
    assert first is not None
    assert second is not None
    view = looked_at(first, SharedMemoryRef("r", 1, 2))
    first.reserve(ResponsePlan((OutputPlan("OUT", shared_memory=SharedMemoryRef("r", 0, 1)),)))
    second.reserve(ResponsePlan((OutputPlan("OUT", shared_memory=SharedMemoryRef("r", 0, 1)),)))
    assert first.is_held

    memory.unregister_system("r")
    assert names(memory) == ["r"]
    assert refusal(lambda: memory.register_system(region()))[0] is StatusCode.ALREADY_EXISTS
    late = memory.lease()
    assert late is not None
    assert bytes(looked_at(late, SharedMemoryRef("r", 1, 1))) == b"\x01"
    late.release()

    first.release()
    first.release()
    assert names(memory) == ["r"]
    second.write("OUT", SharedMemoryRef("r", 0, 1), output(b"x"))
    second.release()
    assert names(memory) == []
    # Whoever still looks sees memory, not a hole where memory was.
    assert bytes(view) == b"\x01\x02"
    memory.register_system(region())


def test_a_request_that_uses_no_region_holds_none(memory: SharedMemory) -> None:
    memory.register_system(region())
    lease = memory.lease()
    assert lease is not None
    lease.reserve(ResponsePlan((OutputPlan("OUT"),)))

    assert not lease.is_held
    memory.unregister_system("r")
    lease.release()
    assert names(memory) == []
