"""Why a model cannot take a request, in Triton's order and words.

Owns that order and those words. It runs only for requests that `request_rules` found wrong, so
that it may take its time; it changes nothing in them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.datatypes import BYTES, DATATYPES, ELEMENT_SIZE
from protocol.inference import DeviceTensor, InferRequest, Tensor
from protocol.status import ServerError, invalid_arg, request_prefix
from repo.input_rules import InputRule, string_fault

_BATCH_NOTE: Final = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be "
    "prepended to each input shape. If you want to specify the full shape including the batch dim "
    "in your input dims config, try setting max_batch_size to zero. See the model configuration "
    "docs for more info on max_batch_size."
)


@dataclass(frozen=True, slots=True)
class Refusals:
    """The refusals of one model; `rules` are in the configuration's order."""

    model_name: str
    max_batch_size: int
    rules: Sequence[InputRule]

    def of(self, request: InferRequest) -> ServerError:
        """The first thing that is wrong with the inputs of a request that was refused."""
        prefix = request_prefix(request.id)
        names = [tensor.name for tensor in request.inputs]
        for name, count in Counter(names).items():
            if count > 1:
                return invalid_arg(f"{prefix}input '{name}' already exists in request")
        wrong = self._wrong_inputs(names, prefix)
        if wrong is not None:
            return wrong
        by_name = {rule.name: rule for rule in self.rules}
        pairs = [(tensor, by_name[tensor.name]) for tensor in request.inputs]
        message = (
            self._wrong_batch(pairs)
            or next(filter(None, (self._wrong_tensor(*pair) for pair in pairs)), "")
            or next(filter(None, (self._wrong_bytes(*pair) for pair in pairs)), "")
            # What is left is a batch of none: Triton takes it, and some backends never answer.
            or f"inference request batch-size must be >= 1 for '{self.model_name}'"
        )
        return invalid_arg(prefix + message)

    def _wrong_inputs(self, names: Sequence[str], prefix: str) -> ServerError | None:
        known = [rule.name for rule in self.rules]
        required = [rule.name for rule in self.rules if not rule.optional]
        missing = [name for name in required if name not in names]
        miscounted = not len(required) <= len(names) <= len(known)
        unknown = [name for name in names if name not in known]
        if unknown and not miscounted:
            return invalid_arg(
                f"unexpected inference input '{unknown[0]}' for model '{self.model_name}'"
            )
        if not miscounted and not missing:
            return None
        expected = (
            f"expected {len(known)} inputs"
            if len(required) == len(known)
            else f"expected number of inputs between {len(required)} and {len(known)}"
        )
        return invalid_arg(
            f"{prefix}{expected} but got {len(names)} inputs for model '{self.model_name}'. "
            f"Got input(s) {_quoted(names)}, but missing required input(s) {_quoted(missing)}. "
            "Please provide all required input(s)."
        )

    def _wrong_batch(self, pairs: Sequence[tuple[Tensor, InputRule]]) -> str:
        sizes: list[int] = []
        for tensor, rule in pairs:
            if not rule.batched:
                continue
            if not tensor.shape:
                return (
                    f"input '{tensor.name}' has no shape but model requires batch dimension for "
                    f"'{self.model_name}'"
                )
            sizes.append(tensor.shape[0])
            if sizes[0] != sizes[-1]:
                return (
                    f"input '{tensor.name}' batch size does not match other inputs for "
                    f"'{self.model_name}'"
                )
        if sizes and sizes[0] > self.max_batch_size:
            return (
                f"inference request batch-size must be <= {self.max_batch_size} for "
                f"'{self.model_name}'"
            )
        return ""

    def _wrong_tensor(self, tensor: Tensor, rule: InputRule) -> str:
        if tensor.datatype != rule.datatype:
            given = tensor.datatype if tensor.datatype in DATATYPES else "<invalid>"
            return (
                f"inference input '{tensor.name}' data-type is '{given}', but model "
                f"'{self.model_name}' expects '{rule.datatype}'"
            )
        if -1 in tensor.shape:
            return (
                f"All input dimensions should be specified for input '{tensor.name}' for model "
                f"'{self.model_name}', got {_shape(tensor.shape)}"
            )
        inner = tensor.shape[1:] if rule.batched else tensor.shape
        if rule.allows(inner) and not (rule.batched and tensor.shape[0] < 0):
            return ""
        expected = (-1, *rule.dims) if rule.batched else rule.dims
        return (
            f"unexpected shape for input '{tensor.name}' for model '{self.model_name}'. Expected "
            f"{_shape(expected)}, got {_shape(tensor.shape)}. "
            f"{_BATCH_NOTE if self.max_batch_size > 0 else ''}"
        )

    def _wrong_bytes(self, tensor: Tensor, rule: InputRule) -> str:
        shape = tensor.shape
        if rule.batched and shape[0] == 0:
            shape = shape[1:]  # as Triton has it: a batch of none is no batch
        expected = math.prod(shape)
        if rule.datatype == BYTES:
            where = f"for inference input '{tensor.name}' for model '{self.model_name}'"
            return string_fault(tensor.raw, expected, where)
        expected *= ELEMENT_SIZE[rule.datatype]
        is_remote = isinstance(tensor, DeviceTensor)
        got = tensor.byte_size if is_remote else len(tensor.raw)
        if got == expected:
            return ""
        return (
            f"input byte size mismatch for input '{tensor.name}' for model '{self.model_name}'. "
            f"Expected {expected}, got {got}"
        )


def _quoted(names: Iterable[str]) -> str:
    return "[" + ",".join(f"'{name}'" for name in names) + "]"


def _shape(shape: Iterable[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
