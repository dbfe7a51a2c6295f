"""Does not load."""

class TritonPythonModel
