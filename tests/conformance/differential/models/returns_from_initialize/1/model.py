"""What `initialize` returns is not looked at."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    def initialize(self, args):
        return False

    def works(self):
        return True
