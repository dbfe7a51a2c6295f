"""Gives texts of all kinds."""

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import word_of


class TritonPythonModel:
    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        word = word_of(request)
        if word == "given":
            array = pb_utils.get_input_tensor_by_name(request, "WORD").as_numpy()
            facts = [array.dtype.name, type(array.ravel()[0]).__name__, str(array.shape)]
            array = np.array(facts, np.object_)
        elif word == "same":
            array = pb_utils.get_input_tensor_by_name(request, "WORD").as_numpy()
        else:
            array = {
                "bytes": np.array([b"a", b"", b"\xff\x00b"], np.object_),
                "texts": np.array(["a", "", "ü", "\n"], np.object_),
                "numbers": np.array([1, 2.5, -3], np.object_),
                "mixed": np.array([b"a", "b", 3, True, None], np.object_),
                "fixed_bytes": np.array([b"ab", b"c\x00", b""]),
                "numpy_bytes": np.array([np.bytes_(b"a"), np.bytes_(b"bc")], np.object_),
                "numpy_text": np.array([np.str_("a"), np.str_("ü")], np.object_),
                "lists": np.array([[1], [2]], np.object_),
                "matrix": np.array([[b"a", b"b"], [b"c", b"d"]], np.object_),
                "nothing": np.empty((0,), np.object_),
                "long": np.array([b"x" * 100_000], np.object_),
                "lone_surrogate": np.array(["\ud800"], np.object_),
                "unicode_array": np.array(["a"]),
                "bytearrays": np.array([bytearray(b"ab")], np.object_),
            }[word]
        return pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", array)])
