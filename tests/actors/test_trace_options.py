"""What `--trace-config` and its older flags ask for."""

from __future__ import annotations

import pytest

from actors.policy.tracing import TraceDefaults, TraceValues
from actors.settings.command_line import parse
from actors.settings.flag_values import BadOption
from actors.settings.trace_options import parse_trace_config

EXPORTER = {
    "url": "http://localhost:4318/v1/traces",
    "bsp_max_queue_size": "2048",
    "bsp_schedule_delay": "5000",
    "bsp_max_export_batch_size": "512",
}


def parsed(*flags: str, **environment: str) -> TraceDefaults:
    return parse_trace_config(flags, environment)


def test_nothing_is_traced_unless_somebody_asks() -> None:
    assert parsed() == TraceDefaults(TraceValues((), 1000, -1, 0), "triton", "", {})


def test_every_setting_of_triton_s_own_mode() -> None:
    found = parsed("level=TIMESTAMPS", "rate=2", "count=3", "triton,file=t", "mode=triton",
                   "triton,log-frequency=4")  # fmt: skip
    assert found == TraceDefaults(TraceValues(("TIMESTAMPS",), 2, 3, 4), "triton", "t", {})


@pytest.mark.parametrize(
    ("words", "level"),
    [
        (["true"], ["TIMESTAMPS"]),
        (["on"], ["TIMESTAMPS"]),
        (["MIN"], ["TIMESTAMPS"]),
        (["max"], ["TIMESTAMPS"]),
        (["TENSORS", "TIMESTAMPS"], ["TIMESTAMPS", "TENSORS"]),
        (["off"], []),
        (["TIMESTAMPS", "OFF"], []),
        (["false", "tensors"], []),
    ],
)
def test_words_for_levels(words: list[str], level: list[str]) -> None:
    assert list(parsed(*(f"level={word}" for word in words)).values.level) == level


def test_the_exporter_s_settings_have_defaults() -> None:
    assert parsed("mode=opentelemetry").exporter == EXPORTER
    assert parsed("opentelemetry,url=http://x").exporter == {}


def test_variables_stand_in_for_the_flags_of_the_batch_processor() -> None:
    found = parsed(
        "mode=opentelemetry",
        "opentelemetry,bsp_schedule_delay=7",
        OTEL_BSP_SCHEDULE_DELAY="1",
        OTEL_BSP_MAX_QUEUE_SIZE="600",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="",
    )
    assert found.exporter == {**EXPORTER, "bsp_schedule_delay": "7", "bsp_max_queue_size": "600"}


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["level"], "--trace-config option format is [<mode>,]<setting>=<value>. Got level"),
        ([",rate=1"], "--trace-config option format is [<mode>,]<setting>=<value>. Got ,rate=1"),
        (["=1"], "--trace-config option format is [<mode>,]<setting>=<value>. Got =1"),
        (["mode=x"], "invalid trace mode, expected 'triton' or 'opentelemetry': x"),
        (["x,file=1"], "invalid trace mode, expected 'triton' or 'opentelemetry': x"),
        (["level=all"], "invalid value for trace level option: all"),
        (["rate=x"], "Invalid option value. Got x"),
        (["rate=-1"], "trace rate is out of range [ 0, 4294967295 ], got: -1"),
        (["count=-2"], "trace count is out of range [ -1, 2147483647 ], got: -2"),
        (["file=t"], "unknown trace setting: file"),
        (["triton,rate=1"], "unknown trace setting for mode 'triton': rate"),
        (["opentelemetry,file=t"], "unknown trace setting for mode 'opentelemetry': file"),
        (
            ["mode=opentelemetry", "opentelemetry,resource=x"],
            "trace resource format is resource=<key>=<value>. Got x",
        ),
        (
            ["mode=opentelemetry", "opentelemetry,bsp_schedule_delay=0"],
            "trace bsp_schedule_delay is out of range [ 1, 2147483647 ], got: 0",
        ),
        (
            ["mode=opentelemetry", "opentelemetry,bsp_max_queue_size=100"],
            "bsp_max_export_batch_size must not be greater than bsp_max_queue_size",
        ),
    ],
)
def test_mistakes_are_refused(flags: list[str], text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the text is compared
        parsed(*flags)
    assert str(caught.value) == text
    with pytest.raises(BadOption) as refused:
        parse(["--model-repository=m", *(f"--trace-config={flag}" for flag in flags)])
    assert text in str(refused.value)


def test_older_flags_mean_the_same() -> None:
    warnings: list[str] = []
    options = parse(
        [
            "--model-repository=m",
            "--trace-file=t",
            "--trace-level=TIMESTAMPS",
            "--trace-level=TENSORS",
            "--trace-rate=2",
            "--trace-count=3",
            "--trace-log-frequency=4",
        ],
        warn=warnings.append,
    )
    found = parse_trace_config(options.trace_config, {})
    assert found.values == TraceValues(("TIMESTAMPS", "TENSORS"), 2, 3, 4)
    assert found.file == "t"
    assert [text.startswith("Warning: '--trace-") for text in warnings] == [True] * 6
