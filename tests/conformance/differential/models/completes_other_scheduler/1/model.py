"""Wants to batch what is a sequence."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.set_dynamic_batching()
        return config

    def works(self):
        return True
