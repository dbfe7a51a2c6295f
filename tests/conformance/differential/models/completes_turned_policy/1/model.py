"""Takes back a transaction policy."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.set_model_transaction_policy({"decoupled": False})
        return config

    def works(self):
        return True
