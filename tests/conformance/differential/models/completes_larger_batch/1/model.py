"""Allows more than its configuration does."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.set_max_batch_size(16)
        return config

    def works(self):
        return True
