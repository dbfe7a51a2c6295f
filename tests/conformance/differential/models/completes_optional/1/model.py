"""Has an optional input."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "WORD", "data_type": "TYPE_STRING", "dims": [1]})
        config.add_output({"name": "ANSWER", "data_type": "TYPE_STRING", "dims": [1]})
        config.add_input({"name": "MORE", "data_type": "TYPE_INT8", "dims": [-1], "optional": True})
        return config

    def works(self):
        return True
