"""Returns from `execute` what it should not."""

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import said, word_of


def good():
    return pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", np.array([b"x"], np.object_))])


class TritonPythonModel:
    def execute(self, requests):
        return {
            "good": lambda: [good()],
            "short": list,
            "long": lambda: [good(), good()],
            "tuple": lambda: (good(),),
            "number": lambda: 3,
            "text": lambda: "text",
            "dictionary": lambda: {"a": good()},
            "response": good,
            "generator": lambda: (good() for _ in range(1)),
            "number_inside": lambda: [3],
            "text_inside": lambda: ["text"],
            "list_inside": lambda: [[good()]],
            "tensor_inside": lambda: [pb_utils.Tensor("ANSWER", np.array([b"x"], np.object_))],
            "error_inside": lambda: [pb_utils.TritonError("text")],
            "false": lambda: False,
            "empty_response": lambda: [pb_utils.InferenceResponse([])],
            "error": lambda: [pb_utils.InferenceResponse([], pb_utils.TritonError("on purpose"))],
            "error_and_tensors": lambda: [
                pb_utils.InferenceResponse(
                    said("x").output_tensors(), pb_utils.TritonError("on purpose")
                )
            ],
            "error_without_text": lambda: [
                pb_utils.InferenceResponse([], pb_utils.TritonError(""))
            ],
            "long_error": lambda: [
                pb_utils.InferenceResponse([], pb_utils.TritonError("ü" * 3000))
            ],
        }[word_of(requests[0])]()
