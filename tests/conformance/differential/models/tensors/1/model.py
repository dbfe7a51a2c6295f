"""What `pb_utils.Tensor` takes and refuses."""

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import ProbeModel, attempt


def Tensor(*args):  # while it completes configurations Triton has no such name
    return pb_utils.Tensor(*args)


def facts(tensor):
    return [tensor.name(), list(tensor.shape()), str(tensor.as_numpy().dtype), tensor.is_cpu()]


class TritonPythonModel(ProbeModel):
    def plain(self):
        return facts(Tensor("X", np.arange(6, dtype=np.float32).reshape(2, 3)))

    def values(self):
        return Tensor("X", np.arange(6, dtype=np.int16).reshape(2, 3)).as_numpy().tolist()

    def scalar(self):
        return facts(Tensor("X", np.array(1, np.int32)))

    def zero_elements(self):
        return facts(Tensor("X", np.empty((0, 3), np.int32)))

    def not_contiguous(self):
        return Tensor("X", np.arange(6, dtype=np.int32).reshape(2, 3).T).as_numpy().tolist()

    def fortran_order(self):
        array = np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3))
        return Tensor("X", array).as_numpy().tolist()

    def every_second(self):
        return Tensor("X", np.arange(6, dtype=np.int32)[::2]).as_numpy().tolist()

    def empty_name(self):
        return Tensor("", np.zeros(1, np.int32))

    def name_none(self):
        return Tensor(None, np.zeros(1, np.int32))

    def array_none(self):
        return Tensor("X", None)

    def array_list(self):
        return Tensor("X", [1, 2])

    def name_number(self):
        return Tensor(3, np.zeros(1, np.int32))

    def no_arguments(self):
        return Tensor()

    def unicode_array(self):
        return Tensor("X", np.array(["a"]))

    def complex_array(self):
        return Tensor("X", np.zeros(1, np.complex64))

    def datetime_array(self):
        return Tensor("X", np.zeros(1, "datetime64[s]"))

    def record_array(self):
        return Tensor("X", np.zeros(1, [("a", np.int32)]))

    def object_array(self):
        tensor = Tensor("X", np.array([b"a", b"bc"], np.object_))
        return [list(tensor.shape()), [bytes(one).decode() for one in tensor.as_numpy()]]

    def bytes_array(self):
        tensor = Tensor("X", np.array([b"a", b"bc"]))
        return [list(tensor.shape()), [bytes(one).decode() for one in tensor.as_numpy()]]

    def strings_by_dlpack(self):
        return Tensor("X", np.array([b"a"], np.object_)).to_dlpack()

    def dlpack_of_strings_by_protocol(self):
        return np.from_dlpack(Tensor("X", np.array([b"a"], np.object_)))

    def numpy_reads_dlpack(self):
        return np.from_dlpack(Tensor("X", np.arange(3, dtype=np.int64))).tolist()

    def dlpack_device(self):
        return [int(one) for one in Tensor("X", np.zeros(1, np.int8)).__dlpack_device__()]

    def from_bool_by_dlpack(self):
        source = Tensor("X", np.array([True, False]))
        return pb_utils.Tensor.from_dlpack("Y", source.to_dlpack()).as_numpy().tolist()

    def from_a_list_by_dlpack(self):
        return pb_utils.Tensor.from_dlpack("X", [1, 2])

    def from_none_by_dlpack(self):
        return pb_utils.Tensor.from_dlpack("X", None)

    def from_a_used_capsule(self):
        capsule = Tensor("X", np.arange(4, dtype=np.int32)).to_dlpack()
        first = pb_utils.Tensor.from_dlpack("Y", capsule).as_numpy().tolist()
        return [first, attempt(pb_utils.Tensor.from_dlpack, "Z", capsule)]

    def from_dlpack_without_a_name(self):
        return pb_utils.Tensor.from_dlpack("", np.zeros(1, np.int32))

    def input_is_writable(self):
        tensor = self.request.inputs()[0]
        return [tensor.as_numpy().dtype.kind, tensor.as_numpy().flags.writeable]

    def input_as_numpy_twice(self):
        tensor = self.request.inputs()[0]
        return tensor.as_numpy()[0] == tensor.as_numpy()[0]

    def set_an_attribute(self):
        tensor = Tensor("X", np.zeros(1, np.int32))
        return attempt(tensor.set_name, "Y") if hasattr(tensor, "set_name") else "no such method"
