"""Says what `initialize` was given."""

import json

import triton_python_backend_utils as pb_utils
from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    def initialize(self, args):
        self.args = args

    def arguments(self):
        return {key: value for key, value in self.args.items() if key != "model_config"}

    def types(self):
        return sorted({type(value).__name__ for value in self.args.values()})

    def config(self):
        return json.loads(self.args["model_config"])

    def model_dir(self):
        return pb_utils.get_model_dir()
