"""Says everything that a request may carry."""

import json

from probes import said


class TritonPythonModel:
    def execute(self, requests):
        return [said(self.facts(request)) for request in requests]

    def facts(self, request):
        return {
            "id": request.request_id(),
            "correlation": request.correlation_id(),
            "flags": request.flags(),
            "timeout": request.timeout(),
            "parameters": json.loads(request.parameters() or "{}"),
            "requested": sorted(request.requested_output_names()),
            "inputs": [
                [tensor.name(), list(tensor.shape()), tensor.is_cpu()]
                for tensor in sorted(request.inputs(), key=lambda one: one.name())
            ],
            "cancelled": request.is_cancelled(),
        }
