"""A base for models that do what a word says, and answer with what came of it, as JSON.

The words are the public methods of the model's class; `words_of` in asks.py finds them by reading
the file. A copy of this one lies beside every model.py.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


def attempt(call, *args, **kwargs):
    """What a call came to. Of a TypeError only the name counts: pybind's texts are its own."""
    try:
        return call(*args, **kwargs)
    except TypeError:
        return "raised TypeError"
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"


def said(found):
    """A response whose ANSWER is `found` as JSON."""
    text = json.dumps(found, default=str, sort_keys=True)
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor("ANSWER", np.array([text.encode()], np.object_))]
    )


def word_of(request):
    return pb_utils.get_input_tensor_by_name(request, "WORD").as_numpy().ravel()[0].decode()


class ProbeModel:
    """Answers each request with what the method of that name returns, or raises."""

    def execute(self, requests):
        responses = []
        for request in requests:
            self.request = request
            responses.append(said(attempt(getattr(self, word_of(request)))))
        return responses
