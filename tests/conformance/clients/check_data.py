"""Data: every datatype in every form under every compression, and classification."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
from checks import check, expect, refused
from flavours import Flavour
from tritonclient.utils import (
    serialize_byte_tensor,
    triton_to_np_dtype,
)

DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES", "BF16"),
)
COMPRESSIONS = (None, "gzip", "deflate")
LABELS = ("cat", "dog", "owl", "fox")
NO_JSON = ("FP16", "BF16")
Array = np.ndarray[Any, Any]


def sample(datatype: str) -> Array:
    """A [2, 3] array with the datatype's extreme values."""
    if datatype == "BYTES":
        texts = [b"", b"plain", "é".encode(), b"a b", b'"quoted"', b"x" * 1000]
        return np.array(texts, object).reshape(2, 3)
    dtype = triton_to_np_dtype(datatype)
    if datatype == "BF16":
        # Values that sixteen bits hold exactly. Old clients take FP32 and cut it, new ones take
        # the type of ml_dtypes.
        return np.array([[0, 1.5, -2], [2.0**127, 2.0**-126, -0.0]], dtype)
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    if datatype.startswith("FP"):
        limits = np.finfo(dtype)
        return np.array([[0, -0.5, 0.1], [limits.max, limits.min, limits.tiny]], dtype)
    whole = np.iinfo(dtype)
    return np.array([[whole.min, whole.max, 0], [1, 2, 3]], dtype)


def raw_bytes(array: Array, datatype: str) -> bytes:
    """The bytes that travel for this array."""
    if datatype == "BYTES":
        return bytes(serialize_byte_tensor(array).item())
    if datatype == "BF16":
        return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return array.tobytes()


def same(found: Array | None, right: Array, what: str) -> None:
    assert found is not None, f"{what}: there is no output"
    expect(tuple(found.shape), right.shape, f"{what}: shape")
    if right.dtype == object:
        # JSON gives the client text, binary data gives it bytes.
        texts = [each.encode() if isinstance(each, str) else each for each in found.ravel()]
        expect(texts, list(right.ravel()), what)
    else:
        expect(found.dtype, right.dtype, f"{what}: dtype")
        assert np.array_equal(found, right), f"{what}: {found!r} is not {right!r}"


def compression_options(
    flavour: Flavour, request: str | None, response: str | None
) -> dict[str, Any]:
    """The infer() options for this pair; gRPC has one algorithm for both directions."""
    if flavour.http:
        return {
            "request_compression_algorithm": request,
            "response_compression_algorithm": response,
        }
    return {"compression_algorithm": request}


def compressions(flavour: Flavour) -> list[tuple[str | None, str | None]]:
    if flavour.http:
        # The asyncio client of 2.41 forgets to import what it compresses requests with.
        able = not flavour.aio or hasattr(flavour.module, "gzip")
        return list(product(COMPRESSIONS if able else (None,), COMPRESSIONS))
    return [(algorithm, None) for algorithm in COMPRESSIONS]


def datatype_check(datatype: str, binary: bool) -> None:
    """Registers the matrix of one datatype in one form: each compression both ways."""

    def run(flavour: Flavour) -> None:
        array = sample(datatype)
        for request, response in compressions(flavour):
            result = flavour.call(
                "infer",
                f"identity_{datatype.lower()}",
                [flavour.tensor("INPUT0", array, datatype, binary=binary)],
                outputs=[flavour.output("OUTPUT0", binary=binary)],
                **compression_options(flavour, request, response),
            )
            what = f"{datatype}, request {request}, response {response}"
            same(result.as_numpy("OUTPUT0"), array, what)
            expect(flavour.described(result, "OUTPUT0")["datatype"], datatype, what)

    run.__name__ = f"{datatype.lower()}_as_{'binary' if binary else 'json'}"
    flavours = ("http", "http.aio", "grpc", "grpc.aio") if binary else ("http", "http.aio")
    check("datatypes" if binary else "json_data", flavours)(run)


for each_datatype in DATATYPES:
    datatype_check(each_datatype, binary=True)
    if each_datatype not in NO_JSON:
        datatype_check(each_datatype, binary=False)


@check("json_data", ("http", "http.aio"))
def sixteen_bit_floats_are_refused_as_json(flavour: Flavour) -> None:
    for datatype in NO_JSON:
        tensor = flavour.tensor("INPUT0", sample(datatype), datatype)
        reason = f"sending {datatype} data via JSON is not supported."
        call = partial(
            flavour.call,
            "infer",
            f"identity_{datatype.lower()}",
            [tensor],
            outputs=[flavour.output("OUTPUT0", binary=False)],
        )
        text = f"{reason} Please use the binary data format for output"
        refused(flavour, text, http=400, grpc="", call=call)


@check("datatypes")
def strings_of_any_bytes(flavour: Flavour) -> None:
    array = np.array([[b"\xff\xfe", b"a\x00b", b"\x00"]], object)
    result = flavour.call("infer", "identity_bytes", [flavour.tensor("INPUT0", array, "BYTES")])
    same(result.as_numpy("OUTPUT0"), array, "bytes")


@check("datatypes")
def a_tensor_of_some_megabytes(flavour: Flavour) -> None:
    array = np.arange(1_500_000, dtype=np.float32).reshape(1000, 1500)
    result = flavour.call("infer", "identity_fp32", [flavour.tensor("INPUT0", array, "FP32")])
    same(result.as_numpy("OUTPUT0"), array, "6 MB")


@check("classification")
def best_classes_with_their_labels(flavour: Flavour) -> None:
    scores = np.array([[0.1, 0.9, -1.0, 0.25], [4.0, 3.0, 2.0, 1.0]], np.float32)
    result = flavour.call(
        "infer",
        "classes",
        [flavour.tensor("INPUT0", scores, "FP32")],
        outputs=[flavour.output("OUTPUT0", class_count=2)],
    )
    right = np.array(
        [[b"0.900000:1:dog", b"0.250000:3:fox"], [b"4.000000:0:cat", b"3.000000:1:dog"]], object
    )
    same(result.as_numpy("OUTPUT0"), right, "classes")
    expect(flavour.described(result, "OUTPUT0")["datatype"], "BYTES", "datatype")


@check("classification")
def more_classes_than_there_are(flavour: Flavour) -> None:
    scores = np.array([[0.5, 0.25, 0.125, 0.0]], np.float32)
    result = flavour.call(
        "infer",
        "classes",
        [flavour.tensor("INPUT0", scores, "FP32")],
        outputs=[flavour.output("OUTPUT0", class_count=99)],
    )
    found = result.as_numpy("OUTPUT0")
    expect(found.shape, (1, 4), "shape")
    expect([each.decode().split(":")[2] for each in found[0]], list(LABELS), "labels")


@check("classification")
def classes_without_labels(flavour: Flavour) -> None:
    values = np.array([range(16)], np.int32)
    tensors = [flavour.tensor(name, values, "INT32") for name in ("INPUT0", "INPUT1")]
    outputs = [flavour.output("OUTPUT0", class_count=1)]
    result = flavour.call("infer", "simple", tensors, outputs=outputs)
    same(result.as_numpy("OUTPUT0"), np.array([[b"30:15"]], object), "classes")
