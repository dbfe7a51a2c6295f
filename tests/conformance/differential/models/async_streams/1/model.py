"""A decoupled model with an `async` execute."""

import asyncio

import triton_python_backend_utils as pb_utils
from probes import said, word_of

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    async def execute(self, requests):
        (request,) = requests
        sender = request.get_response_sender()
        word = word_of(request)
        for number in range(3):
            await asyncio.sleep(0.01)
            sender.send(said([word, number]))
        sender.send(flags=FINAL)
