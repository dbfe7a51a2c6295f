"""Which backend runs a model: platforms, backends and the names of model files.

Owns the table that connects the three, and the filling of whichever of them a configuration
leaves out. It sees file names only, never files, and does not know which backends are installed
(`repo.backends.registry` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.status import invalid_arg
from repo.model_config import ModelConfig, copy_config

ENSEMBLE_PLATFORM: Final = "ensemble"

PYTHON_RUNTIME: Final = "model.py"
"""The `runtime` that asks for the Python implementation of a backend which has two."""


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """One format: its platform ("" where Triton has none), backend and default file name."""

    platform: str
    backend: str
    filename: str
    directory_allowed: bool = False  # the "file" may be a directory
    file_allowed: bool = True

    def found_in(self, entries: Mapping[str, bool]) -> bool:
        """Whether a version directory (name → whether it is a directory) holds such a model."""
        is_directory = entries.get(self.filename)
        if is_directory is None:
            return False
        return self.directory_allowed if is_directory else self.file_allowed


# In the order in which files are looked for.
FORMATS: Final = (
    ModelFormat("tensorflow_savedmodel", "tensorflow", "model.savedmodel", True, False),
    ModelFormat("tensorflow_graphdef", "tensorflow", "model.graphdef"),
    ModelFormat("tensorrt_plan", "tensorrt", "model.plan"),
    ModelFormat("onnxruntime_onnx", "onnxruntime", "model.onnx", True),
    ModelFormat("", "openvino", "model.xml"),
    ModelFormat("pytorch_libtorch", "pytorch", "model.pt"),
    ModelFormat("torch_aoti", "pytorch", "model.pt2"),
    ModelFormat("", "python", "model.py"),
)

# The platforms that belong to one backend. Others, and backends without one, are anybody's.
_BACKEND_OF_PLATFORM: Final = {one.platform: one.backend for one in FORMATS if one.platform}
_PLATFORM_BACKENDS: Final = frozenset(_BACKEND_OF_PLATFORM.values())

# The backends whose default file name is filled in when only the backend is given.
_FILENAME_FILLED: Final = frozenset({"tensorrt", "onnxruntime", "openvino", "python"})


def backend_of_platform(platform: str) -> str | None:
    """The one backend that a known platform belongs to; None for an unknown platform."""
    return _BACKEND_OF_PLATFORM.get(platform)


def platform_fits_backend(platform: str, backend: str) -> bool:
    """Whether both name the same known backend, or neither names a known one."""
    known_backend = backend if backend in _PLATFORM_BACKENDS else None
    return _BACKEND_OF_PLATFORM.get(platform) == known_backend


def autofill(
    config: ModelConfig, directory_name: str, first_version: Mapping[str, bool]
) -> ModelConfig:
    """A copy of `config` with name, backend, platform and model file name filled in.

    `first_version` lists the model directory's first subdirectory: entry name → whether it is a
    directory. Raises ServerError INVALID_ARG for another model's name, or when nothing tells the
    backend.
    """
    config = copy_config(config)
    if not config.name:
        config.name = directory_name
    elif config.name != directory_name:
        raise invalid_arg(
            f"unexpected directory name '{directory_name}' for model '{config.name}', "
            "directory name must equal model name"
        )
    if config.platform == ENSEMBLE_PLATFORM:
        return config
    if not config.backend:
        _fill_backend(config, first_version)
    _fill_platform_and_filename(config, first_version)
    return config


def _fill_backend(config: ModelConfig, first_version: Mapping[str, bool]) -> None:
    if config.platform or config.default_model_filename:
        config.backend = _named_backend(config.platform, config.default_model_filename)
        return
    for one in FORMATS:
        if one.found_in(first_version):
            config.backend = one.backend
            return
    _, dot, backend = config.name.partition(".")
    if not dot:
        raise invalid_arg(
            f"Invalid model name: Could not determine backend for model '{config.name}' with no "
            "backend in model configuration. "
            "Expected model name of the form 'model.<backend_name>'."
        )
    config.backend = backend
    config.default_model_filename = f"model.{backend}"


def _named_backend(platform: str, filename: str) -> str:
    """The backend that a platform or else a well-known file name stands for; "" for neither."""
    if platform == "libtorch":  # an old name, refused later because it is no platform of PyTorch
        return "pytorch"
    if platform:
        return _BACKEND_OF_PLATFORM.get(platform, "")
    return next((one.backend for one in FORMATS if one.filename == filename), "")


def _fill_platform_and_filename(config: ModelConfig, first_version: Mapping[str, bool]) -> None:
    own = [one for one in FORMATS if one.backend == config.backend]
    if not own:
        return
    filename_filled = config.backend in _FILENAME_FILLED or (
        config.backend == "pytorch"
        and config.platform in {"", "torch_aoti"}
        # Such a model is a Python module beside its weights, and those are what model.pt holds.
        and config.runtime != PYTHON_RUNTIME
    )
    if config.platform:
        chosen = next((one for one in own if one.platform == config.platform), own[0])
    elif config.default_model_filename:
        named = [one for one in own if one.filename == config.default_model_filename]
        chosen = named[0] if named else own[0]
    else:
        chosen = next((one for one in own if one.found_in(first_version)), own[0])
    if not config.platform:
        config.platform = chosen.platform
    if filename_filled and not config.default_model_filename:
        config.default_model_filename = chosen.filename
