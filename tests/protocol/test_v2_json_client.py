"""Our codec against the one of Triton's Python client, for every datatype, both ways.

The client's package patches the process that imports it, so it runs in one of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

# Each datatype goes out of the client in JSON (where there is a JSON form) and in binary, through
# our decoder, into a response, and back into the client's arrays.
SCRIPT = """
import warnings
warnings.simplefilter("ignore")
import ml_dtypes
import numpy as np
import tritonclient.http as client
from protocol.inference import InferResponse, Tensor
from protocol.v2_json import InferDecoder
from protocol.v2_json_response import InferEncoder

arrays = {
    "BOOL": np.array([[True, False, True]]),
    "FP16": np.array([[0.5, -1, 65504]], np.float16),
    "FP32": np.array([[0.1, -np.inf, 3e38]], np.float32),
    "FP64": np.array([[0.1, 1e308, -5e-324]], np.float64),
    "BF16": np.array([[0.5, -1, 2]], ml_dtypes.bfloat16),
    "BYTES": np.array([["", "a\\0b", "\\u00e9\\u20ac"]], np.object_),
}
for kind, name in (("i", "INT"), ("u", "UINT")):
    for size in (1, 2, 4, 8):
        limits = np.iinfo(f"{kind}{size}")
        arrays[f"{name}{8 * size}"] = np.array([[limits.min, 1, limits.max]], f"{kind}{size}")
assert len(arrays) == 14
decoder, encoder = InferDecoder(), InferEncoder()
passed = 0
for datatype, array in arrays.items():
    for binary in (True, False):
        if not binary and datatype in ("FP16", "BF16"):
            continue
        given = client.InferInput("I", array.shape, datatype)
        given.set_data_from_numpy(array, binary_data=binary)
        for listed in (True, False):
            outputs = [client.InferRequestedOutput("O", binary_data=binary)] if listed else None
            if not listed and not binary:
                continue  # the client then asks for binary
            body, length = client.InferenceServerClient.generate_request_body(
                [given], outputs=outputs, request_id="7", parameters={"a": 1, "b": "x"}
            )
            header = None if length is None else str(length)
            request, plan = decoder.decode("M", "", bytes(body), header)
            assert request.parameters == {"a": 1, "b": "x"}
            (tensor,) = request.inputs
            output = Tensor("O", tensor.datatype, tensor.shape, raw=tensor.raw)
            response = InferResponse("M", "1", request.id, [output])
            headers, parts = encoder.encode(response, plan)
            told = dict(headers).get("Inference-Header-Content-Length")
            result = client.InferenceServerClient.parse_response_body(
                b"".join(bytes(part) for part in parts),
                header_length=None if told is None else int(told),
            )
            assert (told is not None) is binary
            back = result.as_numpy("O")
            if datatype == "BYTES":
                texts = [x.decode() if isinstance(x, bytes) else x for x in back.ravel()]
                assert texts == list(array.ravel()), (datatype, binary, back)
            else:
                np.testing.assert_array_equal(back, array)
            assert result.get_response()["id"] == "7"
            passed += 1
print(passed)
"""


def test_triton_s_python_client_and_this_codec_agree() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "40"
