"""Where Troupe answers otherwise than Triton 2.51 on purpose, and why.

docs/python_backend.md has the same sentences, which a test holds it to.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

from asks import ENDS_TRITON

ENDS: Final = "The question ends the whole Triton process, some of them not every time."
_NEWER_PARAMETERS: Final = "Parameters of responses are newer than Triton 2.51."
_STUB_DIES: Final = (
    "A numpy array given to from_dlpack, or an unknown release flag, kills Triton's stub, and "
    "every later request of the model fails."
)
_TWICE: Final = "Of two outputs with one name Triton gives the second neither datatype nor shape."

EXPLANATIONS: Final[dict[str, str]] = {
    "completes_bad_datatype/load": (
        "Triton drops what auto_complete_config adds with a datatype that does not exist; Troupe "
        "does not load the model."
    ),
    "no_file/*": "Triton never answers the load of a model whose model.py is missing.",
    "tensors/from_a_used_capsule": "Triton reads the memory of a DLPack capsule that is used up.",
    "tensors_from_numpy/*": _STUB_DIES,
    "requests/release_flags": _STUB_DIES,
    "requests/trace_context": _STUB_DIES,
    "requests/parameters_list": "Triton's text has a mangled C++ name where Troupe's has `dict`.",
    "requests/sender_of_own_request": (
        "Triton makes a response sender for a request that the model made itself, which can only "
        "fail later."
    ),
    "responses/parameters*": _NEWER_PARAMETERS,
    "response_parameters/*": _NEWER_PARAMETERS,
    "calls/parameters_back": _NEWER_PARAMETERS,
    "late/parameters*": _NEWER_PARAMETERS,
    "streams/parameters": _NEWER_PARAMETERS,
    "helpers/decoupled": (
        "using_decoupled_model_transaction_policy raises KeyError for a policy that says nothing; "
        "in Troupe that is False."
    ),
    "calls/refused_there": (
        "An error that comes back from another model is INTERNAL in Triton; Troupe keeps its code."
    ),
    "calls/cancelled_there": (
        "An error that comes back from another model is INTERNAL in Triton; Troupe keeps its code."
    ),
    "calls/wrong_input": (
        "Triton names the inputs of a wrong request in the order of their names, and forgets a "
        "bracket where none is missing."
    ),
    "calls/stream_of_errors": (
        "Triton leaves errors out of the responses that exec(decoupled=True) gives."
    ),
    "calls/stream_that_raises": (
        "Triton never ends the responses of a decoupled model that raises after one."
    ),
    "controls/is_*_ready": (
        "is_model_ready raises for a model that does not exist, as later Tritons do; 2.51 says "
        "False."
    ),
    "outputs/twice": _TWICE,
    "datatypes/two": _TWICE,
    "strings/numpy_bytes*": (
        "Triton writes the repr of numpy.bytes_ elements, b'a'; Troupe writes the bytes."
    ),
    "strings/lone_surrogate*": (
        "A text that UTF-8 cannot hold fails in Triton where the tensor is made, in Troupe where "
        "it is sent, so the traceback is missing."
    ),
    "received/only_optional": (
        "Triton only counts the inputs of a model with optional ones, and lets a required one be "
        "missing."
    ),
    "named_sequences/*": (
        "Triton 2.51 cannot give a sequence's name to a model by a control of datatype STRING."
    ),
    "sequences/name_for_a_number": (
        "Triton gives a model that wants a number for its sequence, and is sent a name, some "
        "number; Troupe refuses the request."
    ),
    "reschedules_without_leave/x": (
        "Triton never answers a request that asks to be executed again where its model's "
        "configuration has no iterative sequences."
    ),
    "metrics/page": (
        "In Triton a metric outlives the object that made it, unless a second one of the same "
        "labels is dropped; in Troupe it lives as long as anybody has it."
    ),
    "logs/lines": "What a model prints is in Troupe's log as lines of the model.",
    **dict.fromkeys(sorted(ENDS_TRITON), ENDS),
}


def explanation(key: str) -> str | None:
    """Why the answers under this key differ; None when they must not."""
    if key in ENDS_TRITON:
        return ENDS
    return next((why for pattern, why in EXPLANATIONS.items() if fnmatchcase(key, pattern)), None)
