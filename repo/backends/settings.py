"""The values of a model's `parameters`, read as what a backend needs.

Owns the spelling of integers and booleans there and the wording when one is misspelt.
"""

from __future__ import annotations

from typing import Final

from protocol.status import invalid_arg
from repo.model_config import ModelConfig, parameter

_BOOLEANS: Final = {
    "1": True, "true": True, "on": True, "0": False, "false": False, "off": False,
}  # fmt: skip


def integer_parameter(config: ModelConfig, key: str, default: int) -> int:
    """Raises ServerError INVALID_ARG for what is no integer."""
    text = parameter(config, key)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise invalid_arg(f"failed to convert '{text}' to integral number") from None


def boolean_parameter(config: ModelConfig, key: str) -> bool | None:
    """None when absent. Raises ServerError INVALID_ARG for what is no boolean."""
    text = parameter(config, key)
    if text is None:
        return None
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise invalid_arg(f"failed to convert '{text}' to boolean")
    return value
