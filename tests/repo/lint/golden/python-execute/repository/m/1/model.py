class TritonPythonModel:
    def run(self, requests):
        return []
