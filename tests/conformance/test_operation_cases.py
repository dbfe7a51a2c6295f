"""Cases of metrics, settings and the command line that one server with namespaces shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conformance import grpc_models
from tests.conformance.http_rest import IDENTITY, Rest, tensor, wait_for
from troupe.serve import serve

PLAIN: Final = IDENTITY % (0, "TYPE_FP32", "[ -1 ]", "TYPE_FP32", "[ -1 ]", "")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two repositories: both have `shared`, the first has `single` too."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    for place, name in ((first, "shared"), (second, "shared"), (first, "single")):
        tags = 'metric_tags { key: "team" value: "a" }' if name == "single" else ""
        grpc_models.write_model(place, name, PLAIN + tags)
    return first, second


@pytest.fixture(scope="module")
def server(
    places: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
    run_server: Callable[..., Any],
) -> Iterator[Any]:
    file = tmp_path_factory.mktemp("traces") / "t"
    with run_server(
        places[0],
        f"--model-repository={places[1]}",
        "--model-namespacing=true",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=triton,file={file}",
    ) as running:
        yield running


@pytest.fixture
def rest(server: Any) -> Iterator[Rest]:
    client = Rest(server.http)
    yield client
    client.close()


def page(server: Any) -> list[str]:
    client = Rest(server.metrics)
    lines = client.get("/metrics").body.decode().splitlines()
    client.close()
    return lines


# --- metrics -------------------------------------------------------------------------------------


def test_case_48_a_namespace_is_a_label(server: Any, rest: Rest, places: tuple[Path, Path]) -> None:
    given = {"inputs": [tensor("INPUT0", "FP32", [1], [1.0])]}
    assert rest.infer("single", given).status == 200
    lines = page(server)
    here, there = places
    for labels, count in (
        (f'_team="a",model="single",namespace="{here}",version="1"', 1),
        (f'model="shared",namespace="{here}",version="1"', 0),
        (f'model="shared",namespace="{there}",version="1"', 0),
    ):
        assert f"nv_inference_request_success{{{labels}}} {count}" in lines
        assert f"nv_inference_pending_request_count{{{labels}}} 0" in lines
        took = [line for line in lines if f"nv_model_load_duration_secs{{{labels}}}" in line]
        assert len(took) == 1
        assert float(took[0].rpartition(" ")[2]) > 0
    assert not [line for line in lines if line.startswith("nv_") and "::" in line]


def test_case_48_the_machine_is_on_the_page(server: Any) -> None:
    values = {
        line.partition(" ")[0]: float(line.partition(" ")[2])
        for line in page(server)
        if line.startswith("nv_cpu_")
    }
    assert set(values) == {
        "nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes",
    }  # fmt: skip
    assert 0 <= values["nv_cpu_utilization"] <= 1
    assert 0 < values["nv_cpu_memory_used_bytes"] < values["nv_cpu_memory_total_bytes"]


def test_a_machine_without_gpus_pins_no_memory(server: Any) -> None:
    lines = page(server)
    assert "nv_pinned_memory_pool_total_bytes 0" in lines
    assert "nv_pinned_memory_pool_used_bytes 0" in lines


# --- settings ------------------------------------------------------------------------------------


def test_case_51_a_model_s_trace_settings_fall_back(rest: Rest) -> None:
    everywhere, here = "/v2/trace/setting", "/v2/models/single/trace/setting"

    def shown() -> tuple[list[str], str]:
        found = rest.get(here).json()
        return found["trace_level"], found["trace_rate"]

    assert rest.post(here, {"trace_rate": "5"}).json()["trace_rate"] == "5"
    assert shown() == (["TIMESTAMPS"], "5")
    assert rest.post(everywhere, {"trace_level": ["OFF"]}).status == 200
    assert shown() == (["OFF"], "5")
    assert rest.post(here, {"trace_rate": None}).status == 200
    assert shown() == (["OFF"], "1000")
    assert rest.post(everywhere, {"trace_level": None}).status == 200
    assert shown() == (["TIMESTAMPS"], "1000")

    for body, status, text in (
        ({"trace_rate": 5}, 500, ""),
        ({"trace_level": ["OFF", "TENSORS"]}, 400, "Expect only one trace level 'OFF'"),
        ({"trace_file": "x"}, 501, "trace file location can not be updated through network"),
        ({"trace_rate": "x"}, 400, "Unable to parse 'trace_rate', got: x"),
        ({"trace_rate": "0"}, 400, "sample rate must be non-zero"),
    ):  # fmt: skip
        response = rest.post(everywhere, body)
        assert response.status == status, body
        assert text in response.error
    assert shown() == (["TIMESTAMPS"], "1000")


def test_case_53_log_settings_change_the_next_line(server: Any, rest: Rest) -> None:
    defaults = {"log_verbose_level": 0, "log_format": "default"}
    iso = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ I \d+ \S+\] \"")

    changed = rest.post("/v2/logging", {"log_verbose_level": 1, "log_format": "ISO8601"})
    assert changed.json() == {
        "log_file": "", "log_info": True, "log_warning": True, "log_error": True,
        "log_verbose_level": 1, "log_format": "ISO8601",
    }  # fmt: skip
    assert rest.post("/v2/repository/models/single/load").status == 200
    assert rest.post("/v2/repository/models/single/unload").status == 200
    assert rest.post("/v2/repository/models/single/load").status == 200
    wait_for(lambda: any(iso.match(line) for line in server.lines))
    response = rest.post("/v2/logging", {"log_file": "x", "log_info": False})
    assert (response.status, response.error) == (
        501, "log file location can not be updated through network protocol",
    )  # fmt: skip
    assert rest.get("/v2/logging").json()["log_info"] is True
    assert rest.post("/v2/logging", defaults).json()["log_format"] == "default"


# --- the command line ----------------------------------------------------------------------------


def test_case_57_one_port_cannot_be_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve((f"--model-repository={tmp_path}", "--http-port=8001", "--grpc-port=8001")) == 1
    assert (
        "The server cannot listen to HTTP requests and GRPC requests at the same address and port "
        "0.0.0.0:8001"
    ) in capsys.readouterr().err


def test_models_that_were_asked_for_are_in_the_table(server: Any) -> None:
    text = "".join(server.lines)
    assert re.search(r"^\| startup_models_0 +\| \* +\|$", text, re.MULTILINE)
    assert re.search(r"^\| model_control_mode +\| MODE_EXPLICIT +\|$", text, re.MULTILINE)
