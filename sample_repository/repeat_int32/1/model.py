"""For each i: after DELAY[i] ms a response with OUT = IN[i] and IDX = i.

IN INT32 [n], DELAY UINT32 [n], WAIT UINT32 [1]. The model is ready for the next request after
WAIT ms, so that with a short WAIT the responses of several requests are under way at once.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sends from a thread per request, and waits for them all at the end."""

    def initialize(self, args):
        self.senders = set()

    def execute(self, requests):
        for request in requests:
            values, delays, wait = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy().copy()
                for name in ("IN", "DELAY", "WAIT")
            )
            thread = threading.Thread(
                target=self.send, args=(request.get_response_sender(), values, delays)
            )
            self.senders.add(thread)
            thread.start()
            time.sleep(wait.item() / 1000)
        self.senders = {thread for thread in self.senders if thread.is_alive()}

    def send(self, sender, values, delays):
        for index, (value, delay) in enumerate(zip(values, delays, strict=True)):
            time.sleep(delay.item() / 1000)
            if sender.is_cancelled():
                break
            outputs = [
                pb_utils.Tensor("OUT", np.array([value], np.int32)),
                pb_utils.Tensor("IDX", np.array([index], np.uint32)),
            ]
            sender.send(pb_utils.InferenceResponse(output_tensors=outputs))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self):
        for thread in self.senders:
            thread.join()
