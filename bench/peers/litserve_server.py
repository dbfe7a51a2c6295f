"""One model of the comparison on LitServe, which serves its own JSON protocol on /predict.

python litserve_server.py identity|sleep_5ms PORT
"""

import sys
import time

import litserve

SLEEP_SECONDS = 0.005
MAX_BATCH_SIZE = 16
BATCH_SECONDS = 0.001


class Identity(litserve.LitAPI):
    """{"input": [...]} in, {"output": the same} out."""

    def setup(self, device: str) -> None:
        self.device = device

    def decode_request(self, request: dict[str, object]) -> object:
        return request["input"]

    def predict(self, values: object) -> object:
        return values

    def encode_response(self, output: object) -> dict[str, object]:
        return {"output": output}


class Sleep(Identity):
    """The same after 5 ms for a batch of up to 16."""

    def batch(self, inputs: list[object]) -> list[object]:
        return inputs

    def predict(self, values: object) -> object:
        time.sleep(SLEEP_SECONDS)
        return values

    def unbatch(self, output: list[object]) -> list[object]:
        return output


def main() -> None:
    model, port = sys.argv[1:]
    if model == "identity":
        api: Identity = Identity()
    else:
        api = Sleep(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False)


if __name__ == "__main__":
    main()
