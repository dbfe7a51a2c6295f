"""OUTPUT0 = a seeded 784-1024-1024-10 network of INPUT0, FP32 [batch, 784] to [batch, 10].

The requests of a batch are joined, so that each layer is one matrix product.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import triton_python_backend_utils as pb_utils

SIZES = (784, 1024, 1024, 10)


class TritonPythonModel:
    """Holds the weights; the same ones in every instance, since the seed is fixed."""

    def initialize(self, args: dict[str, str]) -> None:
        generator = np.random.default_rng(5)
        self.layers = [
            (generator.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
            for rows, columns in pairwise(SIZES)
        ]

    def execute(
        self, requests: list[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        inputs = [
            pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy() for request in requests
        ]
        values = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        for weights in self.layers[:-1]:
            values = np.maximum(values @ weights, 0)
        values = values @ self.layers[-1]
        responses, begin = [], 0
        for array in inputs:
            output = pb_utils.Tensor("OUTPUT0", values[begin : begin + len(array)])
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
            begin += len(array)
        return responses
