"""Gives the parameters of the request back, and some of its own."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        parameters = json.loads(request.parameters())
        mine = {"text": "ü", "number": -3, "large": 1 << 40, "yes": True, "no": False, "empty": ""}
        tensor = pb_utils.Tensor("ANSWER", np.array([b"x"], np.object_))
        return pb_utils.InferenceResponse([tensor], parameters={**mine, **parameters})
