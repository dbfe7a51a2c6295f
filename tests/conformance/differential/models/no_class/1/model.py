"""Does not load."""


class AnotherName:
    def execute(self, requests):
        return None
