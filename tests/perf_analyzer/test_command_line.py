"""The command line, and what it says when it cannot be obeyed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from perf_analyzer.command_line import parse, usage
from perf_analyzer.flags import FLAGS
from perf_analyzer.main import perf
from perf_analyzer.options import SINGLE, BadOption, Mode, Options


def options(arguments: str) -> Options:
    return parse(["-m", "m", *arguments.split()])


def refusal(arguments: str) -> str:
    with pytest.raises(BadOption) as caught:
        options(arguments)
    return str(caught.value)


def test_the_defaults_are_the_original_s() -> None:
    chosen = options("")

    assert chosen.mode is Mode.CONCURRENCY
    assert chosen.levels == SINGLE
    assert (chosen.interval_ms, chosen.window_count, chosen.max_trials) == (5000, 50, 10)
    assert chosen.tolerance == pytest.approx(0.1)
    assert chosen.address == "localhost:8000"
    assert options("-i grpc").address == "localhost:8001"
    assert chosen.percents == (50, 90, 95, 99)
    assert chosen.effective_metrics_url == "http://localhost:8002/metrics"
    assert options("-u 10.0.0.7:9000").effective_metrics_url == "http://10.0.0.7:8002/metrics"


def test_flags_may_be_written_as_getopt_allows() -> None:
    assert options("--measurement-interval=700").interval_ms == 700
    assert options("--measurement-int 700").interval_ms == 700
    assert options("-p700").interval_ms == 700
    assert options("-vv").verbose == 2
    assert options("-v -v").verbose == 2
    assert options("-va").asynchronous
    assert options("-vp 700").interval_ms == 700


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--nonsense", "Invalid long option '--nonsense'"),
        ("--m", "Ambiguous option '--m'"),
        ("-q", "Invalid short option '-q'"),
        ("-p", "Missing value for option '--measurement-interval'"),
        ("--streaming=1", "--streaming takes no value"),
        ("stray", "Unexpected argument 'stray'"),
        ("-p abc", "Failed to parse --measurement-interval. Invalid value provided: abc"),
        ("-p 0", "Failed to parse --measurement-interval. The value must be > 0."),
        ("-i carrier-pigeon", "Unsupported value provided: 'carrier-pigeon'"),
        ("--percentile 100", "The value must be -1 for not reporting or in range (0, 100)."),
        ("--concurrency-range 1:2:3:4", "can have maximum of three elements"),
        ("--concurrency-range 1.5", "Invalid value provided: 1.5"),
        ("--concurrency-range 0:4", "The start of --concurrency-range must be > 0"),
        ("--concurrency-range 1:4 --request-rate-range 5", "Cannot use both"),
        ("--request-intervals f --request-rate-range 5", "Cannot use both"),
        ("--concurrency-range 1:0", "can not be both 0"),
        ("--concurrency-range 4:2", "The start of the range must not exceed its end"),
        ("--binary-search --concurrency-range 1:0 -l 5", "can not be 0 (or 0.0) for binary search"),
        ("--binary-search --concurrency-range 1:8", "can not be 0 for binary search"),
        ("--request-count 3 --concurrency-range 4", "request-count can not be less than"),
        ("--request-count 5 --concurrency-range 1:4", "only supported with a single load level"),
        ("--sync --async", "Cannot use --sync and --async together"),
        ("--streaming", "Streaming is only allowed with gRPC protocol"),
        ("-i grpc --streaming --sync", "only supported with asynchronous calls"),
        ("--grpc-compression-algorithm gzip", "only allowed with gRPC protocol"),
        ("--request-parameter a:1:int", "only allowed with gRPC protocol"),
        ("-i grpc --request-parameter a:1", "must be in the form of name:value:type"),
        ("-i grpc --request-parameter a:1:float", "Unsupported type 'float'"),
        ("--metrics-url x", "Must specify --collect-metrics"),
        ("--metrics-interval 5", "Must specify --collect-metrics"),
        ("--shape INPUT", "There must be a colon"),
        ("--shape INPUT:1,x", "dimensions must be integers > 0"),
        ("--sequence-id-range 9:3", "can not be greater than its end"),
        ("--sequence-id-range -3", "can not be negative"),
        ("-H nonsense", "must be Name:Value"),
        ("--service-kind openai", "is not supported: this tool drives KServe v2 servers"),
        ("--service-kind triton_c_api", "--model-repository must be specified"),
        ("--endpoint x", "--endpoint is for OpenAI servers"),
        ("--enable-mpi", "give several models their own processes"),
        ("--periodic-concurrency-range 1:4", "requires --streaming"),
        ("-i grpc --streaming --periodic-concurrency-range 1:4", "requires --profile-export-file"),
        ("--fixed-schedule", "requires --input-data"),
        ("--verbose-csv", "needs a file"),
        ("--plot picture.png", "ends in .svg or .html"),
        ("--ssl-grpc-root-certifications-file /nowhere", "failed to open '/nowhere'"),
        ("-s -1", "The value must be >= 0.0."),
        ("--request-distribution poisson", "needs --request-rate-range"),
    ],
)  # fmt: skip
def test_what_cannot_be_obeyed_is_refused(arguments: str, text: str) -> None:
    assert text in refusal(arguments)


def test_periodic_ranges_divide_evenly() -> None:
    base = "-i grpc --streaming --profile-export-file /tmp/none.json --periodic-concurrency-range "

    assert options(base + "10:30:10").mode is Mode.PERIODIC
    assert "evenly divided" in refusal(base + "10:35:10")
    assert "needs a start and an end" in refusal(base + "10")


def test_a_model_is_needed() -> None:
    with pytest.raises(BadOption, match="-m flag must be specified"):
        parse([])


def test_an_export_is_never_overwritten(tmp_path: Path) -> None:
    there = tmp_path / "export.json"
    there.touch()

    assert "already exists" in refusal(f"--profile-export-file {there}")


def test_ranges_are_exact() -> None:
    chosen = options("--request-rate-range 0.1:0.3:0.1")

    assert chosen.levels.step == Fraction(1, 10)
    assert chosen.is_open_loop


def test_values_of_their_own_kind() -> None:
    chosen = options(
        "-i GRPC --shape A:B:3,4 --shape C:5 --request-parameter p:true:bool "
        "--request-parameter q:7:int --request-parameter r:x:string --bls-composing-models a:2,b "
        "-H Name:a:b --input-data x.json --input-data y.json --request-count 5"
    )

    assert chosen.shapes == {"A:B": (3, 4), "C": (5,)}
    assert chosen.parameters == {"p": True, "q": 7, "r": "x"}
    assert chosen.bls_composing == (("a", "2"), ("b", ""))
    assert chosen.headers == (("Name", "a:b"),)
    assert chosen.input_data == ("x.json", "y.json")
    assert chosen.count_windows


def test_tensor_formats_do_not_depend_on_each_other() -> None:
    chosen = options("--output-tensor-format json")

    assert chosen.json_outputs
    assert not chosen.json_inputs


def test_what_is_deprecated_is_obeyed_with_a_warning() -> None:
    zero = options("-z")
    ranged = options("-t 2 -c 8")
    short = options("--sequence-length 0 --sequence-id-range 0:5")

    assert zero.input_data == ("zero",)
    assert (int(ranged.levels.start), int(ranged.levels.end)) == (2, 8)
    assert len(zero.warnings) == len(ranged.warnings) == 1
    assert short.sequences.length is None
    assert (short.sequences.first_id, short.sequences.id_count) == (1, 5)
    assert len(short.warnings) == 2


def test_help_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert perf(["--help"]) == 0

    printed = capsys.readouterr().out
    assert printed.strip() == usage()
    for flag in FLAGS:
        assert flag.spelled in printed


def test_the_program_says_what_is_wrong_and_ends_with_99(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert perf(["-m", "m", "--max-trials", "x"]) == 99

    said = capsys.readouterr()
    assert said.err == (
        "Error: Failed to parse --max-trials. Invalid value provided: x\n"
        "Use --help for the list of options.\n"
    )
    assert not said.out


def test_version_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert perf(["--version"]) == 0
    assert "Perf Analyzer of Troupe" in capsys.readouterr().err


def test_nobody_listening_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert perf(["-m", "m", "-u", "127.0.0.1:1"]) == 99

    assert capsys.readouterr().err == (
        "error: failed to get model metadata: HTTP client failed: Couldn't connect to server\n"
    )
