"""Forgets the name of an output."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.add_output({"data_type": "TYPE_STRING", "dims": [1]})
        return config

    def works(self):
        return True
