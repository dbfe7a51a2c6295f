"""The functions of `pb_utils` about configurations and datatypes."""

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import ProbeModel, attempt

CONFIG = {
    "input": [{"name": "A", "data_type": "TYPE_FP32", "dims": ["2"]}],
    "output": [{"name": "B", "data_type": "TYPE_STRING", "dims": ["1"]}],
}


def named(kind):
    return None if kind is None else np.dtype(kind).name


class TritonPythonModel(ProbeModel):
    def input_config(self):
        return pb_utils.get_input_config_by_name(CONFIG, "A")

    def input_config_missing(self):
        return pb_utils.get_input_config_by_name(CONFIG, "B")

    def input_config_of_none(self):
        return pb_utils.get_input_config_by_name({}, "A")

    def output_config(self):
        return pb_utils.get_output_config_by_name(CONFIG, "B")

    def output_config_missing(self):
        return pb_utils.get_output_config_by_name(CONFIG, "A")

    def input_tensor_missing(self):
        return pb_utils.get_input_tensor_by_name(self.request, "NOTHING")

    def output_tensor(self):
        response = pb_utils.InferenceResponse([pb_utils.Tensor("A", np.zeros(1, np.int8))])
        return pb_utils.get_output_tensor_by_name(response, "A").name()

    def output_tensor_missing(self):
        return pb_utils.get_output_tensor_by_name(pb_utils.InferenceResponse([]), "A")

    def decoupled(self):
        using = pb_utils.using_decoupled_model_transaction_policy
        return [
            using({}),
            using({"model_transaction_policy": {}}),
            using({"model_transaction_policy": {"decoupled": True}}),
        ]

    def numpy_types(self):
        return [named(attempt(pb_utils.triton_to_numpy_type, number)) for number in range(1, 14)]

    def triton_types(self):
        kinds = (
            np.bool_,
            np.uint8,
            np.uint16,
            np.uint32,
            np.uint64,
            np.int8,
            np.int16,
            np.int32,
            np.int64,
            np.float16,
            np.float32,
            np.float64,
            np.object_,
            np.bytes_,
        )
        return [pb_utils.numpy_to_triton_type(kind) for kind in kinds]

    def names(self):
        kinds = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING"
        return [named(pb_utils.triton_string_to_numpy(f"TYPE_{kind}")) for kind in kinds.split()]

    def name_bf16(self):
        return pb_utils.triton_string_to_numpy("TYPE_BF16")

    def name_unknown(self):
        return pb_utils.triton_string_to_numpy("TYPE_NOTHING")

    def serialized(self):
        array = np.array([[b"a", "bc"], [b"", 3]], np.object_)
        return [int(byte) for byte in np.frombuffer(self._bytes(array), np.uint8)]

    def serialized_bytes_array(self):
        return [int(byte) for byte in np.frombuffer(self._bytes(np.array([b"abc"])), np.uint8)]

    def _bytes(self, array):
        found = pb_utils.serialize_byte_tensor(array)
        return found.item() if isinstance(found, np.ndarray) else found

    def serialized_empty(self):
        found = pb_utils.serialize_byte_tensor(np.empty([0], np.object_))
        return [type(found).__name__, len(found)]

    def serialized_numbers(self):
        return pb_utils.serialize_byte_tensor(np.zeros(3, np.float32))

    def deserialized(self):
        found = pb_utils.deserialize_bytes_tensor(b"\x01\x00\x00\x00a\x00\x00\x00\x00")
        return [bytes(one).decode() for one in found] + [str(found.dtype), list(found.shape)]

    def constants(self):
        names = (
            "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START",
            "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END",
            "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
            "TRITONSERVER_REQUEST_RELEASE_ALL",
            "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE",
        )
        return {name: int(getattr(pb_utils, name)) for name in names}

    def memory_kinds(self):
        return [
            str(pb_utils.TRITONSERVER_MEMORY_CPU).rsplit(".", 1)[-1] != "",
            pb_utils.TRITONSERVER_MEMORY_CPU != pb_utils.TRITONSERVER_MEMORY_GPU,
        ]
