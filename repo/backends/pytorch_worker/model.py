"""Serves an ordinary `torch.nn.Module` from a model's version directory, inside a worker process.

Owns the finding of the module and its weights, its compilation, and the batches it runs. Inputs
are positional in the order of the configuration, and outputs are taken in that order. The process
belongs to one instance, so what is set for torch here holds for nobody else.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # of the worker

try:
    import torch
except ImportError as missing:
    raise RuntimeError(
        f"PyTorch cannot be imported ({missing}); install it with: pip install 'troupe[torch]'"
    ) from missing

_COMPILE = "TORCH_COMPILE_OPTIONAL_PARAMETERS"

# The module's name once it is imported. Code of the version directory may import others by theirs.
_MODULE = "troupe_pytorch_model"


class TritonPythonModel:
    """One instance of a Python module."""

    def initialize(self, args: dict[str, str]) -> None:
        """Raises TritonModelException, or whatever the module's own code does."""
        config = json.loads(args["model_config"])
        self._batches = config["max_batch_size"] > 0
        self._inputs = [one["name"] for one in config["input"]]
        self._outputs = [out["name"] for out in config["output"]]
        torch.set_num_threads(_integer(config, "NUM_THREADS"))
        torch.set_num_interop_threads(_integer(config, "NUM_INTEROP_THREADS"))
        options = _compile_options(config)
        directory = Path(pb_utils.get_model_dir())
        path = _model_path(directory, config["default_model_filename"])
        kind, device_id = args["model_instance_kind"], args["model_instance_device_id"]
        if path.suffix != ".py":
            module = torch.jit.load(str(path))
            self._device = _device(kind, device_id, module)
            self._call = module.to(self._device).eval()
            return
        sys.path.append(str(directory))
        module = _module_class(path)()
        self._device = _device(kind, device_id, module)
        weights = path.with_suffix(".pt")
        if weights.exists():
            module.load_state_dict(torch.load(weights, map_location=self._device))
        module = module.to(self._device).eval()
        # What cannot be compiled is run as it is, and torch warns of it.
        torch._dynamo.config.suppress_errors = True  # noqa: SLF001  # its public place
        self._call = torch.compile(module, **options)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One call per batch, or per request of a model that does not batch."""
        with torch.inference_mode():
            given = [self._arguments(request) for request in requests]
            if not self._batches:
                answers = [self._results(arguments) for arguments in given]
            elif len(given) == 1:
                answers = [self._results(given[0])]
            else:
                answers = self._batch(given)
            return [
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor.from_dlpack(name, result.contiguous())
                        for name, result in zip(self._outputs, answer)  # noqa: B905  # may be fewer
                    ]
                )
                for answer in answers
            ]

    def _arguments(self, request: Any) -> list[Any]:
        return [
            torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, name).to_dlpack()).to(
                self._device
            )
            for name in self._inputs
        ]

    def _results(self, arguments: Sequence[Any]) -> list[Any]:
        answer = self._call(*arguments)
        results = list(answer) if isinstance(answer, (tuple, list)) else [answer]
        if len(results) < len(self._outputs):
            raise pb_utils.TritonModelException(
                f"The output {self._outputs[len(results)]} in the model configuration refers to "
                f"an output index which doesn't exist. This model has {len(results)} outputs"
            )
        return results[: len(self._outputs)]

    def _batch(self, given: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Joins the arguments of several requests on axis 0, and cuts the results as they were."""
        rows = [arguments[0].shape[0] for arguments in given]
        joined = [torch.cat(column) for column in zip(*given)]  # noqa: B905  # all have every input
        columns = [torch.split(result, rows) for result in self._results(joined)]
        return [[column[place] for column in columns] for place in range(len(given))]


def _parameter(config: dict[str, Any], key: str) -> str | None:
    found = config["parameters"].get(key)
    return None if found is None else found["string_value"]


def _integer(config: dict[str, Any], key: str) -> int:
    """A thread count; a process with one module has one thread unless it asks for more."""
    text = _parameter(config, key)
    try:
        return 1 if text is None else int(text)
    except ValueError:
        raise pb_utils.TritonModelException(
            f"failed to convert '{text}' to integral number"
        ) from None


def _compile_options(config: dict[str, Any]) -> dict[str, Any]:
    text = _parameter(config, _COMPILE)
    if text is None:
        return {}
    try:
        options = json.loads(text)
    except ValueError as error:
        raise pb_utils.TritonModelException(
            f"failed to parse parameter '{_COMPILE}': {error}"
        ) from None
    if not isinstance(options, dict):
        raise pb_utils.TritonModelException(
            f"parameter '{_COMPILE}' must be a JSON object, got '{text}'"
        )
    if "model" in options:
        raise pb_utils.TritonModelException(
            "'model' is not an optional parameter for 'torch.compile'"
        )
    return options


def _model_path(directory: Path, chosen: str) -> Path:
    names = [*([chosen] if chosen else []), "model.py", "model.pt"]
    for name in names:
        path = directory / name
        if path.exists():
            return path
    raise pb_utils.TritonModelException(f"No model found in {directory}/{names}")


def _module_class(path: Path) -> Any:
    """The first `torch.nn.Module` by name; those that the file only imports come last."""
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    assert spec is not None, "a path that ends in .py has a loader"
    assert spec.loader is not None, "as above"
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    found = [
        value
        for name in dir(module)
        if isinstance(value := getattr(module, name), type) and issubclass(value, torch.nn.Module)
    ]
    if not found:
        raise pb_utils.TritonModelException("Cannot find a subclass of torch.nn.Module")
    return next((one for one in found if one.__module__ == _MODULE), found[0])


def _device(kind: str, device_id: str, module: Any) -> Any:
    if kind == "CPU":
        return torch.device("cpu")
    if kind == "GPU":
        return torch.device("cuda", int(device_id))
    for weight in module.parameters():
        return weight.device
    raise pb_utils.TritonModelException("Cannot determine model device")
