"""System shared memory: every datatype through regions, their listing, and mistakes with them."""

from __future__ import annotations

import os
import time
from functools import partial

import numpy as np
from check_data import DATATYPES, compression_options, compressions, raw_bytes, same, sample
from checks import check, expect, refused
from flavours import Flavour
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm


class Region:
    """A system shared memory region, registered with the server until `remove`."""

    def __init__(self, flavour: Flavour, name: str, size: int) -> None:
        self.flavour, self.name, self.size = flavour, name, size
        self.key = f"/{name}_{flavour.name.replace('.', '_')}_{os.getpid()}"
        self.handle = shm.create_shared_memory_region(name, self.key, size)
        flavour.call("register_system_shared_memory", name, self.key, size)

    def write(self, content: bytes, offset: int = 0) -> None:
        shm.set_shared_memory_region(self.handle, [np.frombuffer(content, np.uint8)], offset)

    def read(self, size: int, offset: int = 0) -> bytes:
        found = shm.get_contents_as_numpy(self.handle, np.uint8, [size], offset)
        return bytes(found.tobytes())

    def remove(self) -> None:
        give_up_at = time.monotonic() + 5
        while True:
            try:
                self.flavour.call("unregister_system_shared_memory", self.name)
                break
            except InferenceServerException as error:
                # Triton 2.51 holds a region for a moment after the answer, and then refuses.
                busy = self.flavour.accept_older and "currently in use" in error.message()
                if not busy or time.monotonic() > give_up_at:
                    raise
        shm.destroy_shared_memory_region(self.handle)


def shared_memory_check(datatype: str) -> None:
    """Registers a round trip of one datatype through two regions, under each compression."""

    def run(flavour: Flavour) -> None:
        array = sample(datatype)
        content = raw_bytes(array, datatype)
        size = len(content)
        there = Region(flavour, "there", size + 64)
        back = Region(flavour, "back", size + 64)
        try:
            there.write(content, offset=32)
            for request, response in compressions(flavour):
                back.write(bytes(size + 64))
                tensor = flavour.module.InferInput("INPUT0", list(array.shape), datatype)
                tensor.set_shared_memory("there", size, offset=32)
                output = flavour.output("OUTPUT0")
                output.set_shared_memory("back", size, offset=16)
                result = flavour.call(
                    "infer",
                    f"identity_{datatype.lower()}",
                    [tensor],
                    outputs=[output],
                    **compression_options(flavour, request, response),
                )
                what = f"{datatype}, {request}"
                expect(back.read(size, offset=16), content, what)
                expect(back.read(16), bytes(16), f"{what}: bytes before")
                described = flavour.described(result, "OUTPUT0")
                expect([int(each) for each in described["shape"]], [2, 3], what)
                expect(described["datatype"], datatype, what)
        finally:
            there.remove()
            back.remove()

    run.__name__ = f"{datatype.lower()}_through_shared_memory"
    check("system_shared_memory")(run)


for each_datatype in DATATYPES:
    shared_memory_check(each_datatype)


@check("system_shared_memory")
def regions_are_listed(flavour: Flavour) -> None:
    region = Region(flavour, "listed", 128)
    try:
        for arguments in ((), ("listed",)):
            found = flavour.answer("get_system_shared_memory_status", *arguments)
            entries = found if flavour.http else list(found["regions"].values())
            (entry,) = [each for each in entries if each["name"] == "listed"]
            expect(entry["key"], region.key, "key")
            expect(int(entry["byte_size"]), 128, "byte_size")
            expect(int(entry.get("offset", 0)), 0, "offset")
    finally:
        region.remove()
    flavour.call("unregister_system_shared_memory")
    found = flavour.answer("get_system_shared_memory_status")
    assert not (found if flavour.http else found.get("regions")), f"{found} is left"


@check("system_shared_memory")
def only_one_tensor_in_shared_memory(flavour: Flavour) -> None:
    left = np.arange(16, dtype=np.int32).reshape(1, 16)
    right = np.full((1, 16), 5, np.int32)
    region = Region(flavour, "half", 64)
    try:
        region.write(left.tobytes())
        first = flavour.module.InferInput("INPUT0", [1, 16], "INT32")
        first.set_shared_memory("half", 64)
        result = flavour.call("infer", "simple", [first, flavour.tensor("INPUT1", right, "INT32")])
        same(result.as_numpy("OUTPUT0"), left + right, "sum")
        same(result.as_numpy("OUTPUT1"), left - right, "difference")
    finally:
        region.remove()


@check("system_shared_memory")
def one_output_in_shared_memory_and_one_not(flavour: Flavour) -> None:
    left = np.arange(16, dtype=np.int32).reshape(1, 16)
    region = Region(flavour, "half", 64)
    try:
        first = flavour.output("OUTPUT0")
        first.set_shared_memory("half", 64)
        tensors = [flavour.tensor(name, left, "INT32") for name in ("INPUT0", "INPUT1")]
        outputs = [first, flavour.output("OUTPUT1")]
        result = flavour.call("infer", "simple", tensors, outputs=outputs)
        expect(region.read(64), (left + left).tobytes(), "sum")
        same(result.as_numpy("OUTPUT1"), left - left, "difference")
    finally:
        region.remove()


@check("errors_shared_memory")
def mistakes_with_regions(flavour: Flavour) -> None:
    region = Region(flavour, "taken", 64)
    try:
        refused(
            flavour,
            "shared memory region 'taken' already in manager",
            http=400,
            grpc="ALREADY_EXISTS",
            call=lambda: flavour.call("register_system_shared_memory", "taken", region.key, 64),
        )
        refused(
            flavour,
            "Unable to open shared memory region: '/nobody_made_this'",
            http=500,
            grpc="INTERNAL",
            call=lambda: flavour.call(
                "register_system_shared_memory", "other", "/nobody_made_this", 64
            ),
        )
        refused(
            flavour,
            "failed to register shared memory region 'large': invalid args",
            http=400,
            grpc="INVALID_ARGUMENT",
            call=lambda: flavour.call(
                "register_system_shared_memory", "large", region.key, 1_000_000
            ),
            older=(f"Invalid shared memory region: '{region.key}'", 500, "INTERNAL"),
        )
        for name, offset, text, http, grpc in (
            ("absent", 0, "Unable to find shared memory region: 'absent'", 404, "NOT_FOUND"),
            (
                "taken",
                64,
                "Invalid offset for shared memory region: 'taken'",
                400,
                "INVALID_ARGUMENT",
            ),
            (
                "taken",
                32,
                "Invalid offset + byte size for shared memory region: 'taken'",
                400,
                "INVALID_ARGUMENT",
            ),
        ):
            tensor = flavour.module.InferInput("INPUT0", [4, 4], "FP32")
            tensor.set_shared_memory(name, 64, offset=offset)
            refused(
                flavour,
                text,
                http=http,
                grpc=grpc,
                call=partial(flavour.call, "infer", "identity_fp32", [tensor]),
            )
        small = flavour.output("OUTPUT0")
        small.set_shared_memory("taken", 64)
        array = np.zeros((5, 4), np.float32)
        refused(
            flavour,
            "shared memory size specified with the request for output 'OUTPUT0' (64 bytes) "
            "should be at least 80 bytes to hold the results",
            http=500,
            grpc="INTERNAL",
            call=lambda: flavour.call(
                "infer",
                "identity_fp32",
                [flavour.tensor("INPUT0", array, "FP32")],
                outputs=[small],
            ),
        )
    finally:
        region.remove()
    flavour.call("unregister_system_shared_memory", "absent")
