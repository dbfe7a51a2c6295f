"""How the server starts a worker: which interpreter, which environment, and what it is to load.

Runs in the server only; blocking, because an execution environment may have to be unpacked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.status import internal, unsupported

from repo.backends.base import InstanceContext
from repo.model_config import is_decoupled, parameter, sequence_batching

from .wire import Load

# Descriptors follow as the last two arguments. The package has another name in the worker, so that
# nothing of Troupe is importable there: a model's `repo` or `protocol` is the model's own.
_BOOTSTRAP: Final = (
    "import sys;"
    "sys.path=[p for p in sys.path if p];"
    "p=type(sys)('troupe_worker');"
    f"p.__path__=[{str(Path(__file__).parent)!r}];"
    "sys.modules['troupe_worker']=p;"
    "from troupe_worker.worker import main;"
    "main(int(sys.argv[1]),int(sys.argv[2]))"
)

_INVALID_IN_NAMES: Final = frozenset(";|&$`<>()[]{}\\\"'*?~#!")

# Triton's default of the backend's thread-pool-size.
DEFAULT_BLS_LIMIT: Final = 32


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything that is needed to start one worker."""

    interpreter: str
    environment: Mapping[str, str]
    load: Load

    def command(self, work: int, control: int) -> list[str]:
        """The command line, given the descriptors that the worker inherits."""
        return [self.interpreter, "-c", _BOOTSTRAP, str(work), str(control)]


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
        bls_limit=int(context.settings.get("thread-pool-size", DEFAULT_BLS_LIMIT)),
        auto_complete=int(auto_complete),
    )
    return WorkerSpec(sys.executable, dict(os.environ), load)


def _check_names(context: InstanceContext) -> None:
    if _INVALID_IN_NAMES.intersection(context.config.name + context.instance_name):
        raise internal("Invalid stub name: contains invalid characters")
