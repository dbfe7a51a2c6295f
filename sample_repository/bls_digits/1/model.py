"""LABEL = what `digits` reads in PIXELS, and CONFIDENCE = the probability it gives to that.

PIXELS FP32 [batch, 64] as `digits` takes them; LABEL INT64 and CONFIDENCE FP32, both [batch, 1].
"""

from __future__ import annotations

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Asks for each request by itself; `digits` may batch what several models ask of it."""

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        pixels = pb_utils.get_input_tensor_by_name(request, "PIXELS").as_numpy()
        asked = pb_utils.InferenceRequest(
            model_name="digits",
            requested_output_names=["PROBABILITIES", "LABEL"],
            inputs=[pb_utils.Tensor("INPUT", pixels)],
        )
        found = asked.exec()
        if found.has_error():
            return pb_utils.InferenceResponse(output_tensors=[], error=found.error())
        probabilities = pb_utils.get_output_tensor_by_name(found, "PROBABILITIES").as_numpy()
        label = pb_utils.get_output_tensor_by_name(found, "LABEL").as_numpy()
        outputs = [
            pb_utils.Tensor("LABEL", label),
            pb_utils.Tensor("CONFIDENCE", probabilities.max(axis=1, keepdims=True)),
        ]
        return pb_utils.InferenceResponse(output_tensors=outputs)
