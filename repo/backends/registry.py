"""Which code runs a backend: native backends, installed ones, and Python-based ones.

Owns the table of native backends and the entry-point group through which a package may bring
another. Nothing heavy is imported before a model needs it. `repo.platforms` decides which backend
a model asks for; worker processes for `model.py` are the executor's work.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from protocol.status import ServerError, internal, invalid_arg
from repo.autocomplete import accept_completed
from repo.backends.base import Backend, InstanceContext
from repo.backends.reshaping import ReshapingBackend
from repo.instance_groups import DeviceTable, PreferredGroup
from repo.model_config import ModelConfig
from repo.output_shapes import OutputShapes
from repo.platforms import PYTHON_RUNTIME

ENTRY_POINT_GROUP: Final = "troupe.backends"

BACKEND_DIRECTORY: Final = "backend-directory"
"""The setting that says where Python-based backends stand."""

DEFAULT_DIRECTORY: Final = "/opt/tritonserver/backends"

PYTHON: Final = "python"
"""The backend whose models are a `model.py` in a worker process of its own."""

_NATIVE: Final = {
    "identity": "repo.backends.identity:IdentityBackend",
    "onnxruntime": "repo.backends.onnxruntime:OnnxRuntimeBackend",
    "pytorch": "repo.backends.pytorch:PyTorchBackend",
    "repeat": "repo.backends.repeat:RepeatBackend",
    "square": "repo.backends.square:SquareBackend",
}


def backend_class(backend: str) -> type[Backend]:
    """The class of a backend that runs in a thread of the server.

    Raises ServerError INVALID_ARG when none is built in or installed, INTERNAL when an installed
    one cannot be used.
    """
    native = _NATIVE.get(backend)
    if native is not None:
        module, _, name = native.partition(":")
        found: type[Backend] = getattr(importlib.import_module(module), name)
        return found
    return _installed(backend)


def _installed(backend: str) -> type[Backend]:
    entries = {entry.value: entry for entry in entry_points(group=ENTRY_POINT_GROUP, name=backend)}
    if not entries:
        raise unknown_backend(backend)
    if len(entries) > 1:
        raise internal(
            f"backend '{backend}' is brought by several packages: {', '.join(sorted(entries))}; "
            "uninstall all but one"
        )
    ((target, entry),) = entries.items()
    with _others_code(f"backend '{backend}' cannot be imported from '{target}'"):
        found = entry.load()
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise internal(
            f"backend '{backend}' is no troupe.backends.Backend; its entry point '{target}' in "
            f"'{ENTRY_POINT_GROUP}' must name one"
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise internal(f"backend '{backend}' ('{target}') does not define {', '.join(missing)}")
    return found


@contextmanager
def _others_code(doing: str) -> Iterator[None]:
    """Code of an installed package may raise anything; it fails one model, not the server."""
    try:
        yield
    except ServerError:
        raise
    except Exception as error:
        raise internal(f"{doing}: {type(error).__name__}: {error}") from error


def location(backend: str) -> str:
    """Where a backend's code is, for people: a file, or what an installed package names."""
    native = _NATIVE.get(backend)
    if native is not None or backend == PYTHON:
        module = native.partition(":")[0] if native else f"{__package__}.python"
        spec = importlib.util.find_spec(module)
        return (spec and spec.origin) or module
    return ", ".join(entry.value for entry in entry_points(group=ENTRY_POINT_GROUP, name=backend))


def names() -> tuple[str, ...]:
    """Every backend that is built in or installed, sorted; Python-based ones are not known here."""
    installed = {entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return tuple(sorted({*_NATIVE, PYTHON} | installed))


def is_native(backend: str) -> bool:
    """Whether a backend is Troupe's own, and runs in a thread."""
    return backend in _NATIVE


def unknown_backend(backend: str) -> ServerError:
    return invalid_arg(
        f"unable to find backend library for backend '{backend}', "
        "try specifying runtime on the model configuration."
    )


def create_backend(context: InstanceContext) -> Backend:
    """One instance of the model's backend, not loaded yet. Raises ServerError as above.

    Outputs leave it in the shapes that the configuration promises, also where it reshapes them.
    """
    name = context.config.backend
    make = backend_class(name)
    if name in _NATIVE:
        backend = make(context)
    else:
        with _others_code(f"backend '{name}' cannot be made for '{context.instance_name}'"):
            backend = make(context)
    shapes = OutputShapes.compile(context.config)
    return backend if shapes is None else ReshapingBackend(backend, shapes)


def auto_complete(context: InstanceContext) -> ModelConfig:
    """The configuration with what the model's files tell. Raises ServerError."""
    name = context.config.backend
    complete = backend_class(name).auto_complete
    if name in _NATIVE:
        completed = complete(context)
    else:
        with _others_code(f"backend '{name}' cannot complete model '{context.model_name}'"):
            completed = complete(context)
    return accept_completed(context.config, completed)


def worker_module(config: ModelConfig, settings: Mapping[str, str]) -> Path | None:
    """The directory of the model.py that runs a model in a worker process, for all its models.

    That of a Python-based backend is `<backend-directory>/<backend>`; the backend Troupe brings
    itself is that of PyTorch models with `runtime: "model.py"`. None for a model that runs in a
    thread, or is a model.py itself.
    """
    if config.backend == PYTHON or (config.backend in _NATIVE and config.runtime != PYTHON_RUNTIME):
        return None
    found = Path(settings.get(BACKEND_DIRECTORY, DEFAULT_DIRECTORY), config.backend)
    is_name = config.backend not in {"", "..", "."} and "/" not in config.backend
    if is_name and (found / PYTHON_RUNTIME).is_file():
        return found
    return Path(__file__).with_name("pytorch_worker") if config.backend == "pytorch" else None


def may_complete_itself(context: InstanceContext, module: Path | None) -> bool:
    """Whether a model.py can have an `auto_complete_config`; asking it costs a whole process.

    It has one if any of its own files names it, and may have inherited one from a library if its
    configuration is not complete as it stands.
    """
    if not (context.config.input and context.config.output):
        return True
    own = (context.version_directory, context.model_directory)
    for directory in own if module is None else (module,):
        for path in directory.glob("*.py"):
            if b"auto_complete_config" in path.read_bytes():
                return True
    return False


def preferred_groups(config: ModelConfig, devices: DeviceTable) -> Sequence[PreferredGroup]:
    """The instance groups that a backend prefers where the configuration leaves it open.

    A library that was installed without GPUs in mind runs its models on the CPU, on any machine.
    """
    if config.backend == PYTHON:
        return (PreferredGroup("GPU"),)
    can_use_gpus = _CAN_USE_GPUS.get(config.backend)
    if devices.gpus and can_use_gpus is not None and not can_use_gpus():
        return (PreferredGroup("CPU"),)
    return ()


def _onnxruntime_can() -> bool:
    onnxruntime = importlib.import_module("onnxruntime")
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _torch_can() -> bool:
    try:
        return bool(importlib.import_module("torch").cuda.is_available())
    except (ImportError, OSError):
        return False


_CAN_USE_GPUS: Final = {"onnxruntime": _onnxruntime_can, "pytorch": _torch_can}
