"""Box-drawn tables for the terminal, in the look that Triton's operators know."""

from __future__ import annotations

import json
from collections.abc import Sequence

from actors.control.bodies import EXTENSIONS
from actors.lifecycle.model_index import ModelIndex, VersionState
from actors.settings.options import ServerOptions
from repo.agents import native_agents
from repo.backends.registry import location


def box(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a header, every column as wide as its longest cell."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"

    def line(row: Sequence[str]) -> str:
        cells = (f" {cell.ljust(width)} " for cell, width in zip(row, widths, strict=True))
        return "|" + "|".join(cells) + "|"

    return "\n".join([rule, line(header), rule, *map(line, rows), rule])


def model_table(index: ModelIndex) -> str:
    """Every model with its versions and their states."""
    rows: list[tuple[str, str, str]] = []
    for name, entry in sorted(index.models.items()):
        if not entry.versions:
            reason = entry.reason or "Not loaded: No model version was found"
            rows.append((name, "-", reason))
        for number, version in sorted(entry.versions.items()):
            status = version.state.value
            if version.state is not VersionState.READY and version.reason:
                status = f"{status}: {version.reason}"
            rows.append((name, str(number), status.replace("\n", " ")))
    return box(("Model", "Version", "Status"), rows)


def agent_table() -> str:
    """The repository agents that a configuration may name without installing anything."""
    return box(("Repository Agent", "Path"), sorted(native_agents().items()))


def backend_table(index: ModelIndex, options: ServerOptions) -> str:
    """The backends that models have asked for, and how they were configured."""
    backends = sorted({serving.config.backend for serving in index.serving()} - {""})
    rows = [
        (
            backend,
            location(backend),
            json.dumps({"cmdline": dict(options.backend_settings(backend))}),
        )
        for backend in backends
    ]
    return box(("Backend", "Path", "Config"), rows)


def option_table(options: ServerOptions, version: str) -> str:
    """What this server was asked to be."""
    gpus = (entry.partition(":") for entry in options.cuda_memory_pool_byte_size)
    rows: list[tuple[str, object]] = [
        ("server_id", options.id),
        ("server_version", version),
        ("server_extensions", " ".join(EXTENSIONS)),
        *(
            (f"model_repository_path[{number}]", path)
            for number, path in enumerate(options.model_repository)
        ),
        ("model_control_mode", f"MODE_{options.model_control_mode.upper()}"),
        *((f"startup_models_{number}", name) for number, name in enumerate(options.load_model)),
        ("strict_model_config", int(options.disable_auto_complete_config)),
        ("model_config_name", options.model_config_name),
        ("rate_limit", options.rate_limit.upper()),
        ("pinned_memory_pool_byte_size", options.pinned_memory_pool_byte_size),
        *((f"cuda_memory_pool_byte_size{{{gpu}}}", size) for gpu, _, size in gpus),
        ("min_supported_compute_capability", options.min_supported_compute_capability),
        ("strict_readiness", int(options.strict_readiness)),
        ("exit_timeout", options.exit_timeout_secs),
        ("cache_enabled", int(options.cache_bytes is not None)),
    ]
    return box(("Option", "Value"), [(name, str(value)) for name, value in rows])
