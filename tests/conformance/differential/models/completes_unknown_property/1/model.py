"""Gives an input a property that it has not."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "WORD", "data_type": "TYPE_STRING", "dims": [1], "color": 1})
        return config

    def works(self):
        return True
