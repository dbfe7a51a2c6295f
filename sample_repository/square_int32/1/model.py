"""IN responses with OUT = IN each, INT32 [1]; none at all for 0."""

from __future__ import annotations

import threading

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sends from a thread per request, and waits for them all at the end."""

    def initialize(self, args):
        self.senders = set()

    def execute(self, requests):
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().copy()
            thread = threading.Thread(target=self.send, args=(request.get_response_sender(), value))
            self.senders.add(thread)
            thread.start()
        self.senders = {thread for thread in self.senders if thread.is_alive()}

    def send(self, sender, value):
        for _ in range(value.item()):
            if sender.is_cancelled():
                break
            output = pb_utils.Tensor("OUT", value)
            sender.send(pb_utils.InferenceResponse(output_tensors=[output]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self):
        for thread in self.senders:
            thread.join()
