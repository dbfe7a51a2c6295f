"""The two models of the comparison as MLServer runtimes."""

import asyncio
import time

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

SLEEP_SECONDS = 0.005


def same(name: str, request: InferenceRequest) -> InferenceResponse:
    tensor = request.inputs[0]
    output = ResponseOutput(
        name="OUTPUT0", shape=tensor.shape, datatype=tensor.datatype, data=tensor.data
    )
    return InferenceResponse(model_name=name, outputs=[output])


class Identity(MLModel):
    """OUTPUT0 = INPUT0."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return same(self.name, payload)


class Sleep(MLModel):
    """OUTPUT0 = INPUT0 after 5 ms for the whole batch; blocks, as a Python model does."""

    async def load(self) -> bool:
        await asyncio.sleep(0)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        time.sleep(SLEEP_SECONDS)  # noqa: ASYNC251  # the point of the model
        return same(self.name, payload)
