"""The two models of the comparison on KServe's Python server, REST on the loopback interface only.

python kserve_server.py --http_port=PORT
"""

import functools
import time

import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

SLEEP_SECONDS = 0.005


class Identity(Model):
    """OUTPUT0 = INPUT0."""

    def load(self) -> bool:
        self.ready = True
        return True

    def predict(
        self, payload: InferRequest, headers: dict[str, str] | None = None
    ) -> InferResponse:
        tensor = payload.inputs[0]
        output = InferOutput("OUTPUT0", list(tensor.shape), tensor.datatype, data=tensor.data)
        # The server insists on an identifier of every response.
        return InferResponse(payload.id or "0", self.name, [output])


class Sleep(Identity):
    """OUTPUT0 = INPUT0 after 5 ms; this server does not batch."""

    def predict(
        self, payload: InferRequest, headers: dict[str, str] | None = None
    ) -> InferResponse:
        time.sleep(SLEEP_SECONDS)
        return super().predict(payload, headers)


def main() -> None:
    # KServe always asks for 0.0.0.0.
    configure = uvicorn.Config.__init__

    @functools.wraps(configure)
    def on_loopback(self: uvicorn.Config, *args: object, **options: object) -> None:
        configure(self, *args, **{**options, "host": "127.0.0.1"})

    uvicorn.Config.__init__ = on_loopback
    models = [Identity("identity"), Sleep("sleep_5ms")]
    for model in models:
        model.load()
    ModelServer(enable_grpc=False, workers=1).start(models)


if __name__ == "__main__":
    main()
