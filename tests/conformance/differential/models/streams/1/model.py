"""A decoupled model."""

import threading

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import attempt, said, word_of

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def error(text="on purpose", *code):
    return pb_utils.InferenceResponse([], pb_utils.TritonError(text, *code))


class TritonPythonModel:
    def initialize(self, args):
        self.notes = []

    def execute(self, requests):
        (request,) = requests
        return getattr(self, word_of(request))(request.get_response_sender())

    def note(self, call, *args, **kwargs):
        self.notes.append(attempt(call, *args, **kwargs))

    def found(self, sender):
        found, self.notes = self.notes, []
        sender.send(said(found), FINAL)

    def one(self, sender):
        sender.send(said(1), FINAL)

    def three(self, sender):
        for number in range(3):
            sender.send(said(number))
        sender.send(flags=FINAL)

    def three_with_final(self, sender):
        sender.send(said(0))
        sender.send(said(1))
        sender.send(said(2), FINAL)

    def nothing(self, sender):
        sender.send(flags=FINAL)

    def error_alone(self, sender):
        sender.send(error(), FINAL)

    def error_between(self, sender):
        sender.send(said(0))
        sender.send(error("one", pb_utils.TritonError.NOT_FOUND))
        sender.send(said(1))
        sender.send(flags=FINAL)

    def error_then_final(self, sender):
        sender.send(error())
        sender.send(flags=FINAL)

    def raises(self, sender):
        raise ValueError("on purpose")

    def raises_after_one(self, sender):
        sender.send(said(0))
        raise ValueError("on purpose")

    def raises_after_final(self, sender):
        sender.send(said(0), FINAL)
        raise ValueError("on purpose")

    def returns_a_list(self, sender):
        return []

    def returns_a_response(self, sender):
        sender.send(said(0), FINAL)
        return [said(1)]

    def after_final(self, sender):
        sender.send(said(0), FINAL)
        self.note(sender.send, said(1))
        self.note(sender.send, flags=FINAL)

    def wrong_flags(self, sender):
        self.note(sender.send, said(0), 7)
        self.note(sender.send)
        self.note(sender.send, None, 0)
        self.note(sender.send, 3)
        sender.send(said(0), FINAL)

    def from_a_thread(self, sender):
        threading.Thread(target=self.three, args=[sender]).start()

    def empty_responses(self, sender):
        sender.send(pb_utils.InferenceResponse([]))
        sender.send(pb_utils.InferenceResponse([]), FINAL)

    def parameters(self, sender):
        tensors = said("p").output_tensors()
        sender.send(pb_utils.InferenceResponse(tensors, parameters={"n": 1, "t": "x", "b": False}))
        sender.send(flags=FINAL)

    def many(self, sender):
        for number in range(50):
            sender.send(said(number))
        sender.send(flags=FINAL)

    def large(self, sender):
        for _ in range(3):
            text = np.array([b"x" * 300_000], np.object_)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", text)]))
        sender.send(flags=FINAL)

    def changing_shapes(self, sender):
        for count in (1, 3, 0, 2):
            array = np.array([b"ab"] * count, np.object_)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", array)]))
        sender.send(flags=FINAL)
