"""Box-drawn tables for the terminal, in the look that Triton's operators know."""

from __future__ import annotations

from collections.abc import Sequence

from actors.model_index import ModelIndex, VersionState


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
