class TritonPythonModel:
    def execute(self, requests):
        return []
    @staticmethod
    def auto_complete_config(config):
        return config
