"""Imports a model.py, makes its `TritonPythonModel` and keeps what the worker calls on it."""

from __future__ import annotations

import os
import sys
from typing import Any

from . import wire
from .configuration import ModelConfig
from .errors import ModelRefusal, describe
from .pb_utils import c_python_backend_utils, triton_python_backend_utils


class LoadError(Exception):
    """The model does not load; the text is what the server shows as the reason."""


def publish_modules(version_directory: str) -> None:
    """Make pb_utils importable by the names that models use."""
    sys.modules["triton_python_backend_utils"] = triton_python_backend_utils
    sys.modules["c_python_backend_utils"] = c_python_backend_utils
    triton_python_backend_utils.model_directory = version_directory


def import_model(load: wire.Load) -> Any:
    """The module's `TritonPythonModel` class. Raises LoadError.

    The module is imported as `<version>.<stem>`, a namespace package, from a `sys.path` that ends
    in the version directory and the model directory: a model may use `import beside`,
    `from . import beside` and packages of its model directory. A module that stands elsewhere, as
    that of a Python-based backend does, is imported by its stem.
    """
    path = os.path.join(load.module_directory, load.file_name)
    if not load.file_name.endswith(".py"):
        raise LoadError(f"Model name must end with '.py'. Model name is \"{load.file_name}\".")
    if not os.path.isfile(path):
        raise LoadError(f"Python model file not found in '{path}'")
    publish_modules(load.version_directory)
    stem = load.file_name[: -len(".py")]
    if load.module_directory == load.version_directory:
        sys.path += [load.version_directory, load.model_directory]
        name = f"{load.version}.{stem}"
    else:
        sys.path.append(load.module_directory)
        name = stem
    try:
        # As the statement does it, which trims the machinery from an exception's traceback.
        __import__(name)
        return sys.modules[name].TritonPythonModel
    except BaseException as error:  # noqa: BLE001  # model code may raise anything, SystemExit too
        raise LoadError(describe(error)) from None


def auto_complete(load: wire.Load) -> str:
    """The configuration as the model completes it, as JSON; "" when it does not."""
    model_class = import_model(load)
    if not hasattr(model_class, "auto_complete_config"):
        return ""
    try:
        completed = model_class.auto_complete_config(ModelConfig(load.config_json))
        if not isinstance(completed, ModelConfig):
            raise ModelRefusal(
                f"auto_complete_config function in model '{load.model_name}' must return a "
                "valid pb.ModelConfig object."
            )
        return completed.as_json()
    except BaseException as error:  # noqa: BLE001  # as above
        raise LoadError(describe(error)) from None


def initialize(load: wire.Load, model_class: Any) -> Any:
    """An initialised instance of the model. Raises LoadError."""
    try:
        model = model_class()
        if hasattr(model, "initialize"):
            model.initialize(
                {
                    "model_config": load.config_json,
                    "model_instance_kind": load.kind,
                    "model_instance_name": load.instance_name,
                    "model_instance_device_id": str(load.device_id),
                    "model_repository": load.model_directory,
                    "model_version": str(load.version),
                    "model_name": load.model_name,
                }
            )
        return model
    except BaseException as error:  # noqa: BLE001  # as above
        raise LoadError(describe(error)) from None


def is_coroutine(value: object) -> bool:
    """Whether a model's method turned out to be `async`."""
    return hasattr(value, "cr_await") or hasattr(value, "gi_yieldfrom")
