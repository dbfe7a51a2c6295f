"""Waits until its request is cancelled, and remembers that it was."""

import pathlib
import time

import triton_python_backend_utils as pb_utils
from probes import said, word_of


class TritonPythonModel:
    def initialize(self, args):
        self.seen = []

    def execute(self, requests):
        (request,) = requests
        if word_of(request) == "seen":
            return [said(self.seen)]
        before = request.is_cancelled()
        pathlib.Path(pb_utils.get_model_dir(), "started").touch()
        for _ in range(1000):
            if request.is_cancelled():
                break
            time.sleep(0.005)
        sender = request.get_response_sender()
        self.seen.append([before, request.is_cancelled(), sender.is_cancelled()])
        return [said("late")]
