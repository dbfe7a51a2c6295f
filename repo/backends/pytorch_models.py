"""Opening PyTorch models: TorchScript files, and .pt2 packages of either kind.

Owns how a file becomes a call that takes tensors by name and gives its results in order, and the
sharing of one set of weights between instances. It knows nothing of requests.
"""

from __future__ import annotations

import threading  # noqa: TID251  # instances load in threads of their own, and may share a module
import weakref
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils import _pytree as pytree

from protocol.status import ServerError, internal
from repo.backends.base import InstanceContext
from repo.backends.pytorch_call_spec import plan_call_spec
from repo.backends.pytorch_naming import Argument, Plan, argument_error, plan_forward
from repo.backends.pytorch_settings import TorchSettings, model_file

Value = Any
"""A `torch.Tensor`, or a list of str."""

AOTI: Final = "torch_aoti"
"""The platform of .pt2 packages."""

_SHARED: Final[weakref.WeakValueDictionary[tuple[object, ...], Any]] = weakref.WeakValueDictionary()
_SHARING: Final = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class TorchModel:
    """A loaded model: `call` takes the arguments by name and gives the flat results."""

    plan: Plan
    call: Callable[[Mapping[str, Value]], Sequence[Value]]


def open_model(context: InstanceContext, settings: TorchSettings, device: Any) -> TorchModel:
    """Load the model of one instance onto `device`; None leaves the devices to the model.

    Raises ServerError.
    """
    packaged = context.config.platform == AOTI
    capability = ""
    if context.kind == "GPU":
        capability = "{}.{}".format(*torch.cuda.get_device_capability(device))
    path = model_file(context, "model.pt2" if packaged else "model.pt", capability)
    try:
        loaded = _load(path, packaged, settings, device)
    except ServerError:
        raise
    except Exception as error:
        raise internal(f"failed to load model '{context.model_name}': {error}") from error
    return _packaged(context, loaded) if packaged else _scripted(context, loaded)


def _load(path: Path, packaged: bool, settings: TorchSettings, device: Any) -> Any:
    def load() -> Any:
        with torch.inference_mode(settings.inference_mode):
            if packaged:
                return _load_package(path, device)
            return torch.jit.load(str(path), map_location=device)

    if not settings.weight_sharing:
        return load()
    state = path.stat()
    # A changed file is another model: an update must not share with what it replaces.
    key = (path, state.st_mtime_ns, state.st_size, str(device))
    with _SHARING:
        found = _SHARED.get(key)
        if found is None:
            found = _SHARED[key] = load()
        return found


def _scripted(context: InstanceContext, module: Any) -> TorchModel:
    schema = module.forward.schema
    arguments = [
        Argument(one.name, one.type.kind(), one.type.str())
        for one in schema.arguments
        if one.type.kind() != "ClassType"  # self
    ]
    plan = plan_forward(context.config, arguments)
    names = plan.arguments
    if plan.by_key:
        return TorchModel(
            plan, lambda values: _returned(module({name: values[name] for name in names}))
        )
    return TorchModel(plan, lambda values: _returned(module(*[values[name] for name in names])))


def _returned(result: Any) -> list[Value]:
    """The results of a `forward`. Raises TypeError for what cannot be a response."""
    if isinstance(result, tuple):
        return [_result(one, f"output at index {place}") for place, one in enumerate(result)]
    return [_result(result, "output")]


def _result(result: Any, subject: str) -> Value:
    if isinstance(result, torch.Tensor):
        return result
    if isinstance(result, list):
        others = [one for one in result if not isinstance(one, str)]
        if not others:
            return result
        raise TypeError(
            f"{subject} must be of type Tensor or List[str], received List"
            f"[{type(others[0]).__name__}]"
        )
    raise TypeError(
        "output must be of type Tensor, List[str] or Tuple containing one of these two types. It "
        "should not be a List / Dictionary of Tensors or a Scalar"
    )


class _Package:
    """What a .pt2 file holds: a compiled model or an exported program, and its call."""

    def __init__(
        self, in_spec: str, out_spec: str, run: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> None:
        self.in_spec = in_spec
        self.out_spec = out_spec
        self.run = run


def _load_package(path: Path, device: Any) -> _Package:
    with zipfile.ZipFile(path) as archive:
        compiled = any("/data/aotinductor/" in name for name in archive.namelist())
    return _load_compiled(path, device) if compiled else _load_exported(path, device)


def _load_compiled(path: Path, device: Any) -> _Package:
    """Code that AOTInductor compiled; it stays on the kind of device it was compiled for.

    It trusts the shapes of its inputs, so the configuration has to tell them rightly. Its own
    check (AOTI_RUNTIME_CHECK_INPUTS) would refuse batches of one where the batch size is open.
    """
    index = -1 if device is None or device.type == "cpu" else device.index
    package = torch._inductor.aoti_load_package(str(path), device_index=index)  # noqa: SLF001  # the documented loader
    loader = package.loader
    in_spec, out_spec = loader.get_call_spec()
    # The package's own call would parse both specifications every time.
    return _Package(in_spec, out_spec, loader.run)


def _load_exported(path: Path, device: Any) -> _Package:
    program = torch.export.load(str(path))
    for one in program.graph_signature.user_inputs:
        if not isinstance(one, str):
            raise argument_error(type(one).__name__)
    module = program.module()
    if device is not None:
        module = module.to(device)
    spec = program.call_spec

    def run(arguments: Sequence[Any]) -> Sequence[Any]:
        positional, keywords = pytree.tree_unflatten(list(arguments), spec.in_spec)
        leaves: list[Any] = pytree.tree_leaves(module(*positional, **keywords))
        return leaves

    return _Package(pytree.treespec_dumps(spec.in_spec), pytree.treespec_dumps(spec.out_spec), run)


def _packaged(context: InstanceContext, package: _Package) -> TorchModel:
    plan = plan_call_spec(context.config, package.in_spec, package.out_spec)
    names = plan.arguments
    # The package itself stays alive with the call: who shares it asks whether it still exists.
    return TorchModel(plan, lambda values: package.run([values[name] for name in names]))
