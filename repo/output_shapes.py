"""The way back of `reshape`: a model answers in the reshaped form, a client sees the dims.

Owns that translation for outputs; `input_rules` owns it for inputs. It is compiled once per model
version and is None for a model that reshapes no output.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.inference import InferResponse, Tensor
from repo.model_config import ModelConfig, ModelOutput, is_set


class OutputShapes:
    """The outputs of one model that are reshaped."""

    __slots__ = ("_outputs", "_prefix")

    def __init__(self, config: ModelConfig, outputs: Sequence[ModelOutput]) -> None:
        self._prefix = 1 if config.max_batch_size > 0 else 0
        self._outputs = {out.name: (tuple(out.dims), tuple(out.reshape.shape)) for out in outputs}

    @classmethod
    def compile(cls, config: ModelConfig) -> OutputShapes | None:
        """None when no output of the model is reshaped."""
        reshaped = [out for out in config.output if is_set(out.reshape)]
        return cls(config, reshaped) if reshaped else None

    def restore(self, response: InferResponse) -> None:
        """Give the outputs of a response, in place, the shapes that the configuration promises.

        An output that does not have the reshaped form is left as the model gave it.
        """
        for index, tensor in enumerate(response.outputs):
            pair = self._outputs.get(tensor.name)
            if pair is not None:
                response.outputs[index] = self._restored(tensor, *pair)

    def _restored(self, tensor: Tensor, dims: tuple[int, ...], seen: tuple[int, ...]) -> Tensor:
        prefix, inner = tensor.shape[: self._prefix], tensor.shape[self._prefix :]
        fits = len(inner) == len(seen) and all(
            dim in {-1, size} for size, dim in zip(inner, seen, strict=True)
        )
        if not fits:
            return tensor
        sizes = iter([size for size, dim in zip(inner, seen, strict=True) if dim == -1])
        shape = tuple(next(sizes) if dim == -1 else dim for dim in dims)
        return tensor.reshaped((*prefix, *shape))
