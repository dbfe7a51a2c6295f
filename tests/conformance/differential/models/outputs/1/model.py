"""Gives outputs that its configuration does not promise."""

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import word_of


def one():
    return pb_utils.Tensor("Y", np.array([1.5, 2.5], np.float32))


def text():
    return pb_utils.Tensor("ANSWER", np.array([b"x"], np.object_))


class TritonPythonModel:
    def execute(self, requests):
        return [self.respond(word_of(request)) for request in requests]

    def respond(self, word):
        array = {
            "wrong_datatype": np.array([1.5, 2.5], np.float64),
            "integers": np.array([1, 2], np.int64),
            "wrong_shape": np.zeros((2, 3), np.float32),
            "no_elements": np.zeros((0,), np.float32),
            "a_scalar": np.array(2.5, np.float32),
            "many_dimensions": np.zeros((1,) * 8, np.float32),
            "not_contiguous": np.arange(4, dtype=np.float32)[::2],
            "large": np.arange(200_000, dtype=np.float32),
            "big_endian": np.array([1.5, 2.5], ">f4"),
        }.get(word)
        if array is not None:
            return pb_utils.InferenceResponse([text(), pb_utils.Tensor("Y", array)])
        return pb_utils.InferenceResponse(
            {
                "both": lambda: [text(), one()],
                "turned_round": lambda: [one(), text()],
                "missing": lambda: [text()],
                "none": list,
                "extra": lambda: [text(), one(), pb_utils.Tensor("Z", np.zeros(1, np.int8))],
                "twice": lambda: [text(), text(), one()],
            }[word]()
        )
