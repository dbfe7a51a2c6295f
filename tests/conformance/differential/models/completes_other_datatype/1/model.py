"""Contradicts a datatype."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "WORD", "data_type": "TYPE_FP32", "dims": [1]})
        return config

    def works(self):
        return True
