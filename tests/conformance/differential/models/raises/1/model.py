"""Raises in `execute`."""

import json

import triton_python_backend_utils as pb_utils
from probes import word_of


class CustomError(Exception):
    def __str__(self):
        return "a text of its own"


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class TritonPythonModel:
    def execute(self, requests):
        getattr(self, word_of(requests[0]))()

    def value_error(self):
        raise ValueError("on purpose")

    def without_text(self):
        raise ValueError

    def several_lines(self):
        raise ValueError("one\ntwo")

    def unicode(self):
        raise ValueError("für")

    def model_exception(self):
        raise pb_utils.TritonModelException("on purpose")

    def key_error(self):
        return {}["key"]

    def custom(self):
        raise CustomError

    def chained(self):
        try:
            self.key_error()
        except KeyError as error:
            raise RuntimeError("outer") from error

    def deep(self):
        self._recurse(3)

    def _recurse(self, depth):
        if not depth:
            raise OSError(2, "nothing there")
        self._recurse(depth - 1)

    def in_a_library(self):
        json.loads("{")

    def exit(self):
        raise SystemExit(3)

    def interrupt(self):
        raise KeyboardInterrupt

    def stop_iteration(self):
        next(iter(()))

    def assertion(self):
        assert not "true"
