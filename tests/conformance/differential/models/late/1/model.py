"""Answers with its response sender, without being decoupled."""

import threading

import triton_python_backend_utils as pb_utils
from probes import attempt, said, word_of

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        self.found = []

    def execute(self, requests):
        (request,) = requests
        word = word_of(request)
        if word == "found":
            found, self.found = self.found, []
            return [said(found)]
        return getattr(self, word)(request.get_response_sender())

    def note(self, call, *args, **kwargs):
        self.found.append(attempt(call, *args, **kwargs))

    def at_once(self, sender):
        self.note(sender.send, said("now"), FINAL)

    def without_final(self, sender):
        self.note(sender.send, said("now"))
        self.note(sender.send, flags=FINAL)

    def twice(self, sender):
        self.note(sender.send, said("now"))
        self.note(sender.send, said("again"))
        self.note(sender.send, flags=FINAL)

    def final_first(self, sender):
        self.note(sender.send, flags=FINAL)
        self.note(sender.send, said("now"), FINAL)

    def after_final(self, sender):
        self.note(sender.send, said("now"), FINAL)
        self.note(sender.send, said("again"), FINAL)
        self.note(sender.send, flags=FINAL)

    def wrong_flags(self, sender):
        self.note(sender.send, said("now"), 7)
        self.note(sender.send, None, 0)
        self.note(sender.send)
        self.note(sender.send, "text", FINAL)
        self.note(sender.send, said("now"), "text")
        self.note(sender.send, said("now"), FINAL)

    def none_in_a_list(self, sender):
        self.note(sender.send, said("now"), FINAL)
        return [None]

    def response_as_well(self, sender):
        self.note(sender.send, said("now"), FINAL)
        return [said("again")]

    def then_raises(self, sender):
        self.note(sender.send, said("now"), FINAL)
        raise ValueError("too late")

    def error(self, sender):
        error = pb_utils.TritonError("on purpose", pb_utils.TritonError.NOT_FOUND)
        self.note(sender.send, pb_utils.InferenceResponse([], error), FINAL)

    def in_a_thread(self, sender):
        threading.Timer(0.05, self.at_once, [sender]).start()

    def cancelled(self, sender):
        self.found.append(sender.is_cancelled())
        self.at_once(sender)

    def two_senders(self, sender):
        self.note(sender.send, said("now"), FINAL)

    def parameters(self, sender):
        tensors = said("now").output_tensors()
        response = pb_utils.InferenceResponse(tensors, parameters={"late": True})
        self.note(sender.send, response, FINAL)
