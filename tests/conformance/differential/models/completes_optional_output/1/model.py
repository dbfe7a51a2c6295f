"""Gives an output a property that it has not."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.add_output(
            {"name": "ANSWER", "data_type": "TYPE_STRING", "dims": [1], "optional": True}
        )
        return config

    def works(self):
        return True
