"""What `pb_utils.InferenceRequest` takes and refuses, when a model makes one."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import ProbeModel


def made(**changes):
    arguments = {
        "model_name": "datatypes",
        "requested_output_names": ["Y_INT32"],
        "inputs": [pb_utils.Tensor("X_INT32", np.arange(3, dtype=np.int32))],
    }
    return pb_utils.InferenceRequest(**{**arguments, **changes})


class TritonPythonModel(ProbeModel):
    def defaults(self):
        request = made()
        return [
            request.request_id(),
            request.correlation_id(),
            request.flags(),
            request.timeout(),
            sorted(request.requested_output_names()),
            [tensor.name() for tensor in request.inputs()],
            request.parameters(),
        ]

    def all_set(self):
        request = made(
            request_id="one",
            correlation_id=7,
            flags=3,
            timeout=5,
            model_version=1,
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
            parameters={"s": "t", "i": 3, "b": True},
        )
        return [
            request.request_id(),
            request.correlation_id(),
            request.flags(),
            request.timeout(),
            json.loads(request.parameters()),
        ]

    def correlation_text(self):
        return made(correlation_id="seven").correlation_id()

    def correlation_float(self):
        return made(correlation_id=7.5)

    def correlation_none(self):
        return made(correlation_id=None)

    def set_flags(self):
        request = made()
        request.set_flags(pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
        return request.flags()

    def flags_text(self):
        return made(flags="1")

    def inputs_none(self):
        return made(inputs=None)

    def input_none(self):
        return made(inputs=[None])

    def input_number(self):
        return made(inputs=[3])

    def inputs_empty(self):
        return len(made(inputs=[]).inputs())

    def inputs_tuple(self):
        return len(made(inputs=(pb_utils.Tensor("A", np.zeros(1, np.int8)),)).inputs())

    def outputs_none(self):
        return made(requested_output_names=None)

    def output_none(self):
        return made(requested_output_names=[None])

    def output_empty_name(self):
        return made(requested_output_names=[""])

    def outputs_empty(self):
        return sorted(made(requested_output_names=[]).requested_output_names())

    def outputs_twice(self):
        return sorted(made(requested_output_names=["A", "A", "B"]).requested_output_names())

    def model_none(self):
        return made(model_name=None)

    def version_text(self):
        return made(model_version="1")

    def id_none(self):
        return made(request_id=None)

    def id_number(self):
        return made(request_id=3)

    def timeout_text(self):
        return made(timeout="5")

    def memory_none(self):
        return made(preferred_memory=None)

    def memory_unknown(self):
        return made(preferred_memory=pb_utils.PreferredMemory(7))

    def trace_none(self):
        return made(trace=None)

    def parameters_none(self):
        return made(parameters=None).parameters()

    def parameters_empty(self):
        return made(parameters={}).parameters()

    def parameters_list(self):
        return made(parameters=["a"])

    def parameter_key_number(self):
        return made(parameters={1: "a"})

    def parameter_list(self):
        return made(parameters={"a": [1]})

    def parameter_float(self):
        return made(parameters={"a": 1.5})

    def parameter_none(self):
        return made(parameters={"a": None})

    def nothing(self):
        return pb_utils.InferenceRequest()

    def sender_of_own_request(self):
        return str(made().get_response_sender())[:1]

    def cancelled_of_own_request(self):
        return made().is_cancelled()

    def release_flags(self):
        return made().set_release_flags(7)

    def trace_context(self):
        return made().trace().get_context()
