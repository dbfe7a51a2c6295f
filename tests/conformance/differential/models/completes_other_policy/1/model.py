"""Contradicts a transaction policy."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.set_model_transaction_policy({"decoupled": True})
        return config

    def works(self):
        return True
