"""Does not load."""


class TritonPythonModel:
    def __init__(self):
        raise ValueError("cannot be made")

    def execute(self, requests):
        return None
