"""Changes nothing."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        return config

    def works(self):
        return True
