"""Everything that is written once the measuring is over: summary, CSV, export, picture.

Owns which files there are; what stands in them is made by the modules of each format.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from perf_analyzer import console, csv_report, plot, profile_export
from perf_analyzer.model import ModelInfo
from perf_analyzer.options import Options
from perf_analyzer.profiler import RunOutcome, Say
from perf_analyzer.responses import grpc_outputs, http_outputs

# The version that readers of exports and of CSV files know this layout by.
LAYOUT_VERSION: Final = "2.48.0"


def write(
    options: Options,
    model: ModelInfo,
    outcome: RunOutcome,
    *,
    to_ns: Callable[[float], int],
    say: Say,
) -> None:
    """Print the summary and write the files. Files of levels are written only if one passed."""
    if outcome.reports:
        for line in console.summary(options, outcome.reports):
            say.out(line)
        if options.csv_file:
            _write_csv(options, model, outcome)
        if options.plot:
            page = plot.document(options, model, outcome.reports)
            Path(options.plot).write_text(page, encoding="utf-8")
    if options.export_file and outcome.experiments:
        parse = grpc_outputs if options.grpc or options.in_process else http_outputs
        text = profile_export.document(
            options, model, outcome.experiments, to_ns=to_ns, parse=parse, version=LAYOUT_VERSION
        )
        Path(options.export_file).write_text(text, encoding="utf-8")


def _write_csv(options: Options, model: ModelInfo, outcome: RunOutcome) -> None:
    reports = outcome.reports
    Path(options.csv_file).write_text(csv_report.table(options, model, reports), encoding="utf-8")
    server = next((each.result.server for each in reports if each.result.server), None)
    if server is None:
        return
    for place, delta in enumerate(server.composing):
        path = csv_report.composing_path(options.csv_file, delta)
        path.write_text(csv_report.composing_table(options, reports, place), encoding="utf-8")
