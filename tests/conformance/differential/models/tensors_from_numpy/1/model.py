"""What `pb_utils.Tensor.from_dlpack` makes of numpy arrays."""

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import ProbeModel


def facts(tensor):
    return [tensor.name(), list(tensor.shape()), str(tensor.as_numpy().dtype), tensor.is_cpu()]


class TritonPythonModel(ProbeModel):
    def from_numpy_by_dlpack(self):
        return facts(pb_utils.Tensor.from_dlpack("X", np.arange(4, dtype=np.float64)))

    def from_columns_by_dlpack(self):
        return pb_utils.Tensor.from_dlpack("X", np.arange(6, dtype=np.int32).reshape(2, 3).T)

    def from_empty_by_dlpack(self):
        return facts(pb_utils.Tensor.from_dlpack("X", np.empty((0, 2), np.float32)))
