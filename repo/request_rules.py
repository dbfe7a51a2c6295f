"""What a request must look like for its model: the last judgement before a scheduler sees it.

Owns the key that tells which requests may share a batch, and what a raw input and a reshaped one
become. It is compiled once per model version and then runs for every request, so a request in
order takes a short path: one look-up per input tells whether its shape fits and what that
implies. A request that is not is handed to `request_refusals`, which finds the right words.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final, NamedTuple

from protocol.datatypes import BYTES, ELEMENT_SIZE
from protocol.inference import InferRequest, Tensor
from protocol.status import invalid_arg, request_prefix
from repo.input_rules import LENGTH, InputRule, holds_all
from repo.model_config import ModelConfig, sequence_settings
from repo.request_refusals import Refusals

# Likenesses whose requests are known to be in order: few headers, of the many that are remembered,
# are for one model.
MAX_KNOWN_LIKENESSES: Final = 256
# Answers kept ready, for batch sizes up to this one; larger batches are rare and costly anyway.
MAX_READY_ANSWERS: Final = 256


class Admitted(NamedTuple):
    """A request that its model can take.

    `batch_size` is 0 for a model without batching. Two requests may share a batch only if their
    `shape_key`s are equal.
    """

    batch_size: int
    shape_key: Hashable


class RequestRules:
    """The rules of one model version."""

    __slots__ = (
        "_admitted", "_by_name", "_content_matters", "_corrid", "_model_name", "_optional",
        "_outputs", "_ready", "_refusals", "_required",
    )  # fmt: skip

    def __init__(self, config: ModelConfig) -> None:
        rules = [
            InputRule(one, 1 << index, config.max_batch_size)
            for index, one in enumerate(config.input)
        ]
        self._model_name = config.name
        self._by_name = {rule.name: rule for rule in rules}
        self._outputs = frozenset(out.name for out in config.output)
        # Sets of inputs, as bits.
        self._required = sum(rule.bit for rule in rules if not rule.optional)
        self._optional = any(rule.optional for rule in rules)
        # Whether more than names, types, shapes and sizes of inputs is judged, or changed.
        self._content_matters = any(
            rule.datatype == BYTES or rule.is_shape_tensor or rule.reshape is not None
            for rule in rules
        )
        # By the identity of the likeness, which is kept so that no other object takes that over.
        self._admitted: dict[int, tuple[object, Admitted]] = {}
        self._ready = tuple(Admitted(size, None) for size in range(MAX_READY_ANSWERS + 1))
        self._refusals = Refusals(config.name, config.max_batch_size, rules)
        sequence = sequence_settings(config)
        controls = () if sequence is None else sequence.controls
        self._corrid = next((one for one in controls if one.kind == "CORRID"), None)

    @classmethod
    def compile(cls, config: ModelConfig) -> RequestRules:
        """The rules of a configuration that passed `config_rules`."""
        return cls(config)

    def admit_alike(self, request: InferRequest, likeness: object) -> Admitted:
        """As `admit`, for a request with a likeness to others.

        Requests with the same one, which is the same object, differ in nothing but their ids and
        what their tensors contain; these have all the bytes that were announced for them.
        """
        known = self._admitted.get(id(likeness))
        if known is not None and known[0] is likeness:
            return known[1]
        admitted = self.admit(request)
        if not self._content_matters:
            if len(self._admitted) >= MAX_KNOWN_LIKENESSES:
                self._admitted.clear()
            self._admitted[id(likeness)] = likeness, admitted
        return admitted

    def admit(self, request: InferRequest) -> Admitted:
        """Judge a request. Raises ServerError INVALID_ARG.

        A raw input gets its name and shape, and a tensor that the configuration reshapes is
        replaced by one with the shape that the model sees; the order of inputs stays.
        """
        if request.raw_input:
            self._name_raw_input(request)
        if request.requested_outputs:
            self._check_outputs(request)
        given, batch_size, reshaped = 0, -1, False
        shared: list[tuple[Hashable, ...]] = []  # what those who join its batch must have as well
        by_name = self._by_name
        for tensor in request.inputs:
            rule = by_name.get(tensor.name)
            if rule is None or tensor.datatype != rule.datatype or given & rule.bit:
                raise self._refusals.of(request)
            fit = rule.fits.get(tensor.shape) or rule.fit(tensor.shape)
            if fit is None:
                raise self._refusals.of(request)
            raw = tensor.encoded
            if (raw is None or len(raw) != fit.byte_size) and not holds_all(tensor, fit):
                raise self._refusals.of(request)
            if fit.batch_size != batch_size and fit.batch_size >= 0:
                if batch_size >= 0:
                    raise self._refusals.of(request)
                batch_size = fit.batch_size
            if fit.model_shape is not None:
                reshaped = True
            if rule.is_shape_tensor:
                shared.append((rule.bit, fit.inner, bytes(tensor.raw)))
            elif rule.shape_matters:
                shared.append((rule.bit, fit.inner))
            given |= rule.bit
        if given & self._required != self._required:
            raise self._refusals.of(request)
        if self._corrid is not None:
            self._check_correlation_id(request)
        batch_size = max(batch_size, 0)
        key: Hashable = None
        if shared or self._optional:
            if len(shared) > 1:
                shared.sort()  # by input, in whatever order they were named
            key = (given, *shared)
        if reshaped:
            self._reshape(request)
        if key is None and batch_size <= MAX_READY_ANSWERS:
            return self._ready[batch_size]
        return Admitted(batch_size, key)

    def _check_outputs(self, request: InferRequest) -> None:
        seen: set[str] = set()
        for name in request.requested_outputs:
            if name not in self._outputs:
                raise invalid_arg(
                    f"unexpected inference output '{name}' for model '{self._model_name}'"
                )
            if name in seen:
                raise invalid_arg(
                    f"{request_prefix(request.id)}output '{name}' already exists in request"
                )
            seen.add(name)

    def _check_correlation_id(self, request: InferRequest) -> None:
        assert self._corrid is not None, "only models with the control are asked"
        given = BYTES if isinstance(request.correlation_id, str) else "UINT64"
        if (given == BYTES) != (self._corrid.datatype == BYTES):
            raise invalid_arg(
                f"{request_prefix(request.id)}sequence batching control '{self._corrid.name}' "
                f"data-type is '{given}', but model '{self._model_name}' expects "
                f"'{self._corrid.datatype}'"
            )

    def _reshape(self, request: InferRequest) -> None:
        for index, tensor in enumerate(request.inputs):
            fit = self._by_name[tensor.name].fit(tensor.shape)
            assert fit is not None, "only admitted tensors are reshaped"
            if fit.model_shape is not None:
                request.inputs[index] = tensor.reshaped(fit.model_shape)

    def _name_raw_input(self, request: InferRequest) -> None:
        """Give the one tensor without metadata its name, datatype and shape."""
        prefix = request_prefix(request.id)
        if len(self._by_name) != 1 or len(request.inputs) != 1:
            raise invalid_arg(
                f"{prefix}Raw request must only have 1 input (found {len(request.inputs)}) to be "
                f"deduced but got {len(self._by_name)} inputs in '{self._model_name}' model "
                "configuration"
            )
        (rule,) = self._by_name.values()
        raw = request.inputs[0].raw
        dims = list(rule.dims)
        if dims.count(-1) > 1:
            raise invalid_arg(
                f"{prefix}The shape of the raw input '{rule.name}' can not be deduced because "
                "there are more than one variable-sized dimension"
            )
        if rule.datatype == BYTES:
            if math.prod(dims) != 1:
                raise invalid_arg(
                    f"{prefix}For BYTE datatype raw input '{rule.name}', the model must have "
                    "input shape [1]"
                )
            raw = LENGTH.pack(len(raw)) + raw
        elif -1 in dims:
            row = -math.prod(dims) * ELEMENT_SIZE[rule.datatype]
            dims[dims.index(-1)] = len(raw) // row
        shape = (1, *dims) if rule.batched else tuple(dims)
        request.inputs = [Tensor(rule.name, rule.datatype, shape, raw=raw)]
        request.raw_input = False
