"""Loads, but cannot execute."""


class TritonPythonModel:
    def initialize(self, args):
        pass
