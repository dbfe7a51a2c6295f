"""Has a file name of its own."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    def name(self):
        return __name__
