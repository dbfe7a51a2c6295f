"""How the server starts a worker: which interpreter, which environment, and what it is to load.

Runs in the server only; blocking, because an execution environment may have to be unpacked.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.status import internal, invalid_arg, unsupported

from repo.backends.base import InstanceContext
from repo.backends.settings import boolean_parameter
from repo.model_config import is_decoupled, parameter, sequence_batching
from repo.output_shapes import OutputShapes

from .arena import DEFAULT_SEGMENT_BYTES
from .environment import Environment, EnvironmentStore, own_environment
from .wire import Load

_DIRECTORY: Final = str(Path(__file__).parent)

# The package has another name in the worker, so that nothing of Troupe is importable there: a
# model's `repo` or `protocol` is the model's own. Descriptors are the last arguments.
_BOOTSTRAP: Final = (
    "import sys;"
    "sys.path=[p for p in sys.path if p];"
    "p=type(sys)('troupe_worker');"
    "p.__path__=[{directory!r}];"
    "sys.modules['troupe_worker']=p;"
    "from troupe_worker.{module} import main;"
    "main(*map(int,sys.argv[1:]))"
)

_INVALID_IN_NAMES: Final = frozenset(";|&$`<>()[]{}\\\"'*?~#!")

# Triton's default of the backend's thread-pool-size.
DEFAULT_BLS_LIMIT: Final = 32

# Ours, not Triton's: whether a batch that killed its worker is run again in halves.
BISECT_POISON: Final = "TROUPE_BISECT_POISON"

_ENVIRONMENTS: Final = EnvironmentStore()


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything that is needed to start one worker."""

    interpreter: str
    environment: Mapping[str, str]
    load: Load
    cores: frozenset[int] = frozenset()  # to run on; empty: wherever
    bisects_poison: bool = True  # may a batch that killed a worker be run again, in halves
    output_shapes: OutputShapes | None = None  # None: no output is reshaped

    def command(self, descriptors: Sequence[int]) -> list[str]:
        """The command line, given what the worker inherits: `work`, `control` and its progress."""
        return [self.interpreter, "-c", _bootstrap("worker"), *map(str, descriptors)]


def zygote_command(descriptor: int) -> list[str]:
    """The command line of a process that forks workers of the server's own environment."""
    return [sys.executable, "-c", _bootstrap("zygote"), str(descriptor)]


def _bootstrap(module: str) -> str:
    return _BOOTSTRAP.format(module=module, directory=_DIRECTORY)


def worker_spec(
    context: InstanceContext,
    config_json: str,
    *,
    backend_directory: Path | None = None,
    auto_complete: bool = False,
) -> WorkerSpec:
    """What `context`'s model asks for. `backend_directory` holds a Python-based backend's model.py.

    Raises ServerError.
    """
    config = context.config
    _check_names(context)
    force_cpu = parameter(config, "FORCE_CPU_ONLY_INPUT_TENSORS")
    if force_cpu not in {None, "yes", "no"}:
        raise unsupported(f"Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: {force_cpu}'")
    sequence = sequence_batching(config)
    version_directory = context.version_directory
    first_bytes, growth_bytes = _segment_sizes(context.settings)
    load = Load(
        model_name=config.name,
        version=context.version,
        model_directory=str(context.model_directory),
        version_directory=str(version_directory),
        module_directory=str(backend_directory or version_directory),
        file_name="model.py" if backend_directory else config.default_model_filename or "model.py",
        config_json=config_json,
        kind=context.kind,
        instance_name=context.instance_name,
        device_id=context.device_id,
        decoupled=int(is_decoupled(config)),
        reschedulable=int(sequence is not None and sequence.iterative_sequence),
        bls_limit=_thread_pool_size(context.settings),
        first_segment_bytes=first_bytes,
        segment_growth_bytes=growth_bytes,
        auto_complete=int(auto_complete),
    )
    environment = _environment(context, backend_directory)
    bisects = boolean_parameter(config, BISECT_POISON)
    return WorkerSpec(
        environment.interpreter,
        environment.variables,
        load,
        context.cores,
        # What a sequence had told the worker before has died with it: a second one would answer
        # its next request as if it were the first.
        bisects_poison=sequence is None if bisects is None else bisects,
        output_shapes=OutputShapes.compile(config),
    )


def _environment(context: InstanceContext, backend_directory: Path | None) -> Environment:
    """What EXECUTION_ENV_PATH names; else what comes with a Python-based backend; else our own."""
    location = parameter(context.config, "EXECUTION_ENV_PATH")
    if location:
        return _ENVIRONMENTS.open(location, context.model_directory)
    if backend_directory is not None:
        runtime = context.config.runtime or "model.py"
        packed = backend_directory / f"pb_exec_env_{runtime}.tar.gz"
        if packed.exists():
            return _ENVIRONMENTS.open(str(packed), context.model_directory)
    return own_environment()


def _segment_sizes(settings: Mapping[str, str]) -> tuple[int, int]:
    """The first segment's size and the least growth, of each direction of one worker."""
    first = _integer(settings, "shm-default-byte-size", DEFAULT_SEGMENT_BYTES)
    if first < DEFAULT_SEGMENT_BYTES:
        raise invalid_arg("shm-default-byte-size can't be smaller than 4 MiBs")
    growth = _integer(settings, "shm-growth-byte-size", DEFAULT_SEGMENT_BYTES)
    for key, value in (
        ("shm-growth-byte-size", growth),
        ("stub-timeout-seconds", _integer(settings, "stub-timeout-seconds", 30)),
    ):
        if value <= 0:
            raise invalid_arg(f"{key} can't be smaller than or equal to zero.")
    if settings.get("shm-region-prefix-name") == "":
        # Segments have no names here, so the prefix is only checked.
        raise invalid_arg("shm-region-prefix-name must at least contain one character.")
    return first, growth


def _thread_pool_size(settings: Mapping[str, str]) -> int:
    size = _integer(settings, "thread-pool-size", DEFAULT_BLS_LIMIT)
    if size < 1:
        raise invalid_arg("thread-pool-size can't be less than 1.")
    return size


def _integer(settings: Mapping[str, str], key: str, default: int) -> int:
    text = settings.get(key)
    try:
        return default if text is None else int(text)
    except ValueError:
        raise invalid_arg(f"failed to convert '{text}' to integral number") from None


def _check_names(context: InstanceContext) -> None:
    if _INVALID_IN_NAMES.intersection(context.config.name + context.instance_name):
        raise internal("Invalid stub name: contains invalid characters")
