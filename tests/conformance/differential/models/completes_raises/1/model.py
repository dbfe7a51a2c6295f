"""Raises."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        raise ValueError("cannot complete")

    def works(self):
        return True
