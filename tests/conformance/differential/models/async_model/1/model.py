"""An `async` execute."""

import asyncio

from probes import said, word_of


class TritonPythonModel:
    async def execute(self, requests):
        responses = []
        for request in requests:
            word = word_of(request)
            await asyncio.sleep(0.01)
            if word == "raises":
                raise ValueError("on purpose")
            if word == "returns_short":
                return []
            responses.append(said(word))
        return responses
