"""The identity backend: every input comes back as the output of its place.

Owns the pairing of `INPUT<i>` with `OUTPUT<i>` and the delays that tests ask for. Tensors travel
by reference; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter_ns, sleep  # noqa: TID251  # the model's own delay, in its thread

import numpy as np

from protocol.datatypes import BYTES, numpy_dtype
from protocol.inference import InferResponse, ParameterValue, Tensor
from protocol.status import invalid_arg
from repo.backends.base import Backend, ExecuteRequest, Outcome, Timings
from repo.backends.settings import boolean_parameter, integer_parameter
from repo.model_config import ModelInput, datatype, model_dims, type_name

PARAMETERS: Mapping[str, ParameterValue] = {
    "param0": "an example string parameter",
    "param1": 42,
    "param2": False,
    "param3": 123.123,
}


class IdentityBackend(Backend):
    """Answers with what it was asked."""

    def load(self) -> None:
        config = self.context.config
        self._delay_seconds = integer_parameter(config, "execute_delay_ms", 0) / 1000
        multiplier = integer_parameter(config, "instance_wise_delay_multiplier", 0)
        if multiplier > 0:
            # Instances are numbered at the end of their names.
            number = self.context.instance_name.rpartition("_")[2]
            self._delay_seconds *= max(multiplier * int(number if number.isdecimal() else 0), 1)
        self._outputs = self._paired_outputs()
        self._inputs = {one.name: one for one in config.input}
        self._reports = boolean_parameter(config, "enable_custom_tracing") is True
        sleep(integer_parameter(config, "creation_delay_sec", 0))

    def _paired_outputs(self) -> dict[str, str]:
        """Input name → output name: by number if all names have one, else by place."""
        config = self.context.config
        name = config.name
        if len(config.input) != len(config.output):
            raise invalid_arg(
                f"identity model '{name}' must have as many outputs as inputs, got "
                f"{len(config.input)} inputs and {len(config.output)} outputs"
            )
        outputs = {out.name: out for out in config.output}
        numbered = {one.name: f"OUTPUT{one.name.removeprefix('INPUT')}" for one in config.input}
        if not all(one.startswith("INPUT") for one in numbered) or set(numbered.values()) != set(
            outputs
        ):
            numbered = {
                one.name: out.name for one, out in zip(config.input, config.output, strict=True)
            }
        for one in config.input:
            out = outputs[numbered[one.name]]
            if (one.data_type, model_dims(one)) != (out.data_type, model_dims(out)):
                raise invalid_arg(
                    f"identity model '{name}' must have the same datatype and shape for input "
                    f"'{one.name}' and output '{out.name}', got {type_name(one.data_type)} "
                    f"{list(model_dims(one))} and {type_name(out.data_type)} "
                    f"{list(model_dims(out))}"
                )
        return numbered

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        if self._reports:
            _report(requests, "CUSTOM_ACTIVITY_START")
        began_ns = perf_counter_ns()
        if self._delay_seconds:
            sleep(self._delay_seconds)
        slept_ns = perf_counter_ns()
        outcomes = [self._answer(request) for request in requests]
        timings.infer_ns = slept_ns - began_ns
        timings.output_ns = perf_counter_ns() - slept_ns
        if self._reports:
            _report(requests, "CUSTOM_SINGLE_ACTIVITY", "CUSTOM_ACTIVITY_END")
        return outcomes

    def _answer(self, request: ExecuteRequest) -> InferResponse:
        asked = request.request
        wanted = asked.requested_outputs
        outputs = [
            tensor.renamed(name)
            for tensor in asked.inputs
            if (name := self._outputs.get(tensor.name)) is not None
            and (not wanted or name in wanted)
        ]
        if len(asked.inputs) < len(self._inputs):
            given = {tensor.name for tensor in asked.inputs}
            outputs += [
                self._zeros(one, request.batch_size)
                for name, one in self._inputs.items()
                if name not in given and (not wanted or self._outputs[name] in wanted)
            ]
        return InferResponse(
            asked.model_name, str(self.context.version), asked.id, outputs, dict(PARAMETERS)
        )

    def _zeros(self, one: ModelInput, batch_size: int) -> Tensor:
        """What stands for an optional input that was left out; its open sizes are 1."""
        dims = tuple(1 if dim == -1 else dim for dim in model_dims(one))
        shape = (batch_size, *dims) if self.context.config.max_batch_size > 0 else dims
        wire_type = datatype(one.data_type)
        fill = b"" if wire_type == BYTES else 0
        array = np.full(shape, fill, numpy_dtype(wire_type))
        return Tensor(self._outputs[one.name], wire_type, shape, array=array)


def _report(requests: Sequence[ExecuteRequest], *activities: str) -> None:
    """Let the traces of these requests show what a model does, by an example."""
    for execute in requests:
        if execute.request.trace is not None:
            for activity in activities:
                execute.request.trace.report(activity)
