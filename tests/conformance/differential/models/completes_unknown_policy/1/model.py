"""Sets an unknown transaction policy."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    @staticmethod
    def auto_complete_config(config):
        config.set_model_transaction_policy({"color": 1})
        return config

    def works(self):
        return True
