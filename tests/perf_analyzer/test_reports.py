"""CSV, metrics, ensembles and pictures, from whole runs in virtual time."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from perf_analyzer.plot import nice_step
from tests.perf_analyzer.fake_server import FakeServer
from tests.perf_analyzer.runs import run

PLAIN_HEADER = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,"
    "Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv,"
    "p50 latency,p90 latency,p95 latency,p99 latency"
)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_csv_has_the_original_s_columns(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    server = FakeServer(latency=lambda _: 0.005)

    run(server, f"-p 300 --concurrency-range 1:2 -f {path}")

    assert path.read_text().splitlines()[0] == PLAIN_HEADER
    first, second = rows(path)
    assert first["Concurrency"] == "1"
    assert float(second["Inferences/Second"]) == pytest.approx(400, rel=0.01)
    parts = [int(first[name]) for name in PLAIN_HEADER.split(",")[2:9]]
    assert parts == [0, 4570, 100, 10, 300, 20, 0]
    assert sum(parts) == 5000
    assert first["p99 latency"] == "5000"


def test_rows_are_sorted_by_throughput(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    server = FakeServer()
    server.latency = lambda _: 0.020 if server.busiest > 1 else 0.005

    run(server, f"-p 300 --concurrency-range 1:2 -f {path}")

    assert [row["Concurrency"] for row in rows(path)] == ["2", "1"]


def test_a_verbose_csv_has_more_columns(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"

    run(FakeServer(), f"-p 300 --percentile 75 --verbose-csv -f {path}")

    assert (
        path.read_text().splitlines()[0]
        == PLAIN_HEADER.replace("p90", "p75 latency,p90") + ",request/response,response wait"
    )
    assert rows(path)[0]["response wait"] == "10000"


def test_rates_have_a_column_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"

    run(FakeServer(), f"-p 500 --request-rate-range 50 -f {path}")

    assert path.read_text().startswith("Request Rate,Inferences/Second,")
    assert rows(path)[0]["Request Rate"] == "50"


def gpu_page(looks: list[None]) -> str:
    """Two GPUs, whose utilisation goes up from look to look."""
    looks.append(None)
    first, second = (0.2, 0.4) if len(looks) % 2 else (0.4, 0.6)
    return (
        f'nv_gpu_utilization{{gpu_uuid="a"}} {first}\n'
        f'nv_gpu_utilization{{gpu_uuid="b"}} {second}\n'
        f'nv_gpu_memory_used_bytes{{gpu_uuid="a"}} {100 * len(looks)}\n'
        'nv_gpu_memory_total_bytes{gpu_uuid="a"} 1000000000\n'
    )


def test_gpu_metrics_are_collected_under_load(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    looks: list[None] = []
    server = FakeServer(pages={"/metrics": (200, lambda: gpu_page(looks))})

    seen = run(
        server,
        f"-p 1000 --collect-metrics --metrics-interval 100 --verbose-csv -f {path}",
    )

    row = rows(path)[0]
    assert seen.status == 0
    assert len(looks) > 30
    cells = [cell.split(":") for cell in row["Avg GPU Utilization"].removesuffix(";").split(";")]
    assert {gpu: float(value) for gpu, value in cells} == pytest.approx(
        {"a": 0.3, "b": 0.5}, abs=0.01
    )
    assert row["Avg GPU Power Usage"] == ""
    assert row["Total GPU Memory"] == "a:1e+09;"
    assert seen.errors == ["WARNING: the server has no metrics nv_gpu_power_usage"]
    assert any(line.startswith("      a : 30") and line.endswith("%") for line in seen.lines)
    assert "      a : 1000000000 bytes" in seen.lines


def test_metrics_that_cannot_be_had_are_an_error() -> None:
    seen = run(FakeServer(), "-p 300 --collect-metrics")

    assert seen.status == 99
    assert seen.errors == [
        "error: metrics endpoint at 'http://localhost:8002/metrics' is not usable: HTTP status 404"
    ]


def ensemble(server: FakeServer) -> FakeServer:
    """Make `server` an ensemble of a, twice, and of an ensemble that holds b."""

    def step(name: str) -> dict[str, Any]:
        return {"model_name": name, "model_version": "-1"}

    def stats() -> dict[str, Any]:
        whole = server._statistics()["model_stats"][0]
        return {
            "model_stats": [
                whole,
                {**whole, "name": "a", "version": "2", "inference_count": 77},
                {**whole, "name": "b"},
            ]
        }

    def config(name: str, *steps: str) -> dict[str, Any]:
        document: dict[str, Any] = {"name": name}
        if steps:
            document["ensemble_scheduling"] = {"step": [step(each) for each in steps]}
        return document

    server.config = config("m", "a", "a", "inner")
    server.pages = {
        "/v2/models/a/config": (200, config("a")),
        "/v2/models/b/config": (200, config("b")),
        "/v2/models/inner/config": (200, config("inner", "b")),
        "/v2/models/stats": (200, stats),
    }
    return server


def test_composing_models_are_reported_beside_the_ensemble(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"

    seen = run(ensemble(FakeServer()), f"-p 300 -f {path}")

    assert seen.status == 0
    assert "+ queue 100 usec + compute 330 usec)" in seen.text
    place = seen.lines.index("  Composing models: ")
    assert seen.lines[place + 1] == "  a, version: 2"
    assert seen.lines[place + 2].startswith("      Inference count: ")
    assert "  b, version: 1" in seen.lines
    assert {each.name for each in tmp_path.iterdir()} == {
        "out.csv", "a_v2.out.csv", "b_v1.out.csv",
    }  # fmt: skip
    header = (tmp_path / "a_v2.out.csv").read_text().splitlines()[0]
    assert header == PLAIN_HEADER.partition(",p50")[0]


def test_models_that_the_user_names_are_counted_too() -> None:
    server = ensemble(FakeServer())
    server.config = {"name": "m"}

    seen = run(server, "-p 300 --bls-composing-models a:2,b")

    assert "  a, version: 2" in seen.lines
    assert "  b, version: 1" in seen.lines


@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_the_picture_shows_every_level(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"

    run(FakeServer(), f"-p 300 --concurrency-range 1:3 --plot {path}")

    page = path.read_text()
    start, end = page.index("<svg"), page.index("</svg>") + 6
    tree = ET.fromstring(page[start:end])
    space = "{http://www.w3.org/2000/svg}"
    lines = tree.findall(f"{space}polyline")
    assert len(lines) == 4  # p50, p90, p95, p99
    assert all(len(line.attrib["points"].split()) == 3 for line in lines)
    labels = {text.text for text in tree.iter(f"{space}text")}
    assert {"1", "2", "3", "p99", "latency in ms", "inferences/sec"} <= labels
    assert ("<table>" in page) is (suffix == "html")


@pytest.mark.parametrize(("extent", "step"), [(6, 1), (100, 20), (0.03, 0.005), (1, 0.2)])
def test_axes_have_round_steps(extent: float, step: float) -> None:
    assert nice_step(extent, 6) == pytest.approx(step)


def test_one_ctrl_c_reports_and_a_second_one_leaves() -> None:
    import trio

    from perf_analyzer.session import Session

    async def once(session: Session) -> None:
        await trio.sleep(1.0)
        session.interrupt()

    async def twice(session: Session) -> None:
        await once(session)
        session.interrupt()

    reported = run(FakeServer(), "-p 5000", meanwhile=once)
    left = run(FakeServer(latency=lambda _: 10.0), "-p 5000", meanwhile=twice)

    assert reported.status == left.status == 0
    assert reported.value("Throughput") == pytest.approx(100, rel=0.02)
    assert not any("Throughput" in line for line in left.lines)
