"""Loads, works, and raises when it is unloaded."""

from probes import ProbeModel


class TritonPythonModel(ProbeModel):
    def works(self):
        return True

    def finalize(self):
        raise RuntimeError("cannot end")
