"""Names a datatype that does not exist."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "MORE", "data_type": "TYPE_FP33", "dims": [1]})
        return config

    def works(self):
        return True
