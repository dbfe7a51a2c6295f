"""Imports what lies beside it, and says how it was imported itself."""

import os
import sys

import beside
import package_of_model
import triton_python_backend_utils as pb_utils
from probes import ProbeModel, attempt

from . import beside as again


class TritonPythonModel(ProbeModel):
    def name(self):
        return [__name__, __package__, os.path.basename(__file__), __spec__.name]

    def file(self):
        return __file__

    def modules(self):
        return [beside.__name__, again.__name__, beside is again, package_of_model.__name__]

    def values(self):
        return [beside.VALUE, again.VALUE, package_of_model.VALUE]

    def own_path(self):
        mine = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
        return [part for part in sys.path if part.startswith(mine)]

    def model_dir(self):
        return pb_utils.get_model_dir()

    def main(self):
        return sys.modules["__main__"] is not sys.modules[__name__]

    def utils_by_both_names(self):
        import c_python_backend_utils

        return c_python_backend_utils.Tensor is pb_utils.Tensor

    def standard_input(self):
        return attempt(lambda: len(sys.stdin.read(1)))

    def arguments(self):
        return isinstance(sys.argv, list)
