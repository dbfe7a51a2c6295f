"""Contradicts dimensions."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.add_output({"name": "ANSWER", "data_type": "TYPE_STRING", "dims": [4]})
        return config

    def works(self):
        return True
