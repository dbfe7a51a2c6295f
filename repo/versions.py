"""Which versions of a model exist, and which of them its policy selects.

Owns the reading of version directory names and of `version_policy`. It never touches files: the
names come from `scan`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Final

import betterproto

from protocol.status import invalid_arg
from repo.model_config import ModelConfig, is_set

_LOG = logging.getLogger("troupe.repo")

# Directories of a model that hold other things than a version.
RESERVED_DIRECTORIES: Final = frozenset({"warmup", "initial_state", "configs"})

_VERSION = re.compile(r"[0-9]+", re.ASCII)
_MAX_VERSION: Final = 2**63 - 1  # versions are int64 in the configuration and on the wire


def discover_versions(directory_names: Iterable[str]) -> tuple[int, ...]:
    """The versions among the names of a model's subdirectories, ascending.

    A name that is neither a version nor reserved is ignored with a warning. `1abc` is no version:
    Triton reads its leading integer, and then fails because directory `1` is missing.
    """
    versions: set[int] = set()
    for name in directory_names:
        if name in RESERVED_DIRECTORIES:
            continue
        if len(name) > 1 and name.startswith("0"):
            _LOG.warning(
                "ignore version directory '%s' which contains leading zeros in its directory name",
                name,
            )
        elif _VERSION.fullmatch(name) and int(name) <= _MAX_VERSION:
            versions.add(int(name))
        else:
            _LOG.warning(
                "ignore version directory '%s' which fails to convert to integral number", name
            )
    return tuple(sorted(versions))


def select_versions(config: ModelConfig, available: Iterable[int]) -> tuple[int, ...]:
    """The available versions that `config.version_policy` selects, ascending.

    No policy means the latest one; one that is there and says nothing, all of them. Raises
    ServerError INVALID_ARG when none is left.
    """
    ordered = sorted(set(available))
    choice, policy = betterproto.which_one_of(config.version_policy, "policy_choice")
    match choice:
        case "all":
            selected = ordered
        case "" if is_set(config.version_policy):
            selected = ordered
        case "specific":
            wanted = set(policy.versions)
            selected = [version for version in ordered if version in wanted]
            for version in sorted(wanted - set(selected)):
                _LOG.warning(
                    "version %d is specified for model '%s', "
                    "but the version directory is not present",
                    version,
                    config.name,
                )
        case _:
            count = policy.num_versions if choice == "latest" else 1
            selected = ordered[len(ordered) - min(count, len(ordered)) :]
    if not selected:
        raise invalid_arg(
            "at least one version must be available under the version policy "
            f"of model '{config.name}'"
        )
    return tuple(selected)
