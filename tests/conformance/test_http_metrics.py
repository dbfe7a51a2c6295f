"""The metrics port over real sockets: names, labels, and what --metrics-config adds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import grpc_models
from tests.conformance.http_rest import IDENTITY, Rest, tensor, wait_for

# Reports a cache as an LLM backend does.
REPORTER = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        self.family = pb_utils.MetricFamily(
            name="nv_trt_llm_kv_cache_block_metrics", description="blocks",
            kind=pb_utils.MetricFamily.GAUGE)
        self.metrics = []
        for kind, value in (("tokens_per", 64), ("used", 8), ("max", 16)):
            metric = self.family.Metric(labels={"kv_cache_block_type": kind, "model": "x"})
            metric.set(value)
            self.metrics.append(metric)
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(each, "IN").as_numpy())
            ])
            for each in requests
        ]
"""
BUCKETS = """
model_metrics { metric_control {
  metric_identifier { family: "nv_inference_first_response_histogram_ms" }
  histogram_options { buckets: [ 1, 2, 4, 8 ] }
} }
metric_tags { key: "team" value: "a \\"quoted\\" \\\\ one" }
"""


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("metrics")
    plain = IDENTITY % (8, "TYPE_FP32", "[ -1 ]", "TYPE_FP32", "[ -1 ]", "")
    write = grpc_models.write_model
    write(repository, "plain", plain)
    write(repository, "cached", plain + "response_cache { enable: true }")
    write(repository, "finely", plain + BUCKETS)
    write(repository, "reporter", grpc_models.TENSORS, REPORTER)
    with run_server(
        repository,
        "--metrics-config=summary_latencies=true",
        "--metrics-config=histogram_latencies=true",
        "--cache-config=local,size=1048576",
    ) as running:
        yield running


@pytest.fixture
def metrics(server: Any) -> Iterator[Rest]:
    client = Rest(server.metrics)
    yield client
    client.close()


def lines(metrics: Rest) -> list[str]:
    response = metrics.get("/metrics")
    assert response.status == 200
    return response.body.decode().splitlines()


def ask(server: Any, model: str) -> None:
    rest = Rest(server.http)
    body = {"inputs": [tensor("INPUT0", "FP32", [1, 1], [1.0])]}
    assert rest.infer(model, body).status == 200
    rest.close()


def test_case_48_a_fresh_server_counts_nothing_yet(sample_server: Any) -> None:
    client = Rest(sample_server.metrics)
    page = lines(client)
    for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
        line = f'nv_inference_request_failure{{model="simple",reason="{reason}",version="1"}} 0'
        assert line in page
    assert not [line for line in page if re.search("_total{|_total |_created|_summary_", line)]
    assert not [line for line in page if line.startswith("nv_cache")]
    for line in page:
        names = re.findall(r'([A-Za-z_]+)="', line)
        assert names == sorted(names), line
    response = client.get("/metrics/")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    for path in ("/metricsX", "/", "/v2/health/live"):
        response = client.get(path)
        assert (response.status, response.error) == (404, "Not Found")
    response = client.post("/metrics")
    assert (response.status, response.error) == (405, "Method Not Allowed")
    client.close()


def test_case_48_summaries_and_the_cache(server: Any, metrics: Rest) -> None:
    for model in ("plain", "cached", "cached"):
        ask(server, model)
    page = lines(metrics)
    mark = 'model="plain",version="1"'
    for name in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
        family = f"nv_inference_{name}_summary_us"
        assert f"{family}_count{{{mark}}} 1" in page
        found = [line for line in page if line.startswith(f"{family}{{{mark},quantile=")]
        quantiles = re.findall('quantile="([^"]*)"', "".join(found))
        assert quantiles == ["0.5", "0.9", "0.95", "0.99", "0.999"]
        assert not [line for line in found if line.endswith("NaN")]
    mark = 'model="cached",version="1"'
    assert f"nv_cache_num_hits_per_model{{{mark}}} 1" in page
    assert f"nv_cache_num_misses_per_model{{{mark}}} 1" in page
    assert f"nv_cache_hit_summary_per_model_count{{{mark}}} 1" in page
    assert f"nv_cache_miss_summary_per_model_count{{{mark}}} 1" in page
    assert f"nv_inference_queue_summary_us_count{{{mark}}} 2" in page
    # Whoever has a cache shows its summaries instead of the request's own.
    shown = [line for line in page if "nv_inference_request_summary_us_count" in line]
    assert not [line for line in shown if mark in line]
    assert not [line for line in page if line.startswith("nv_cache") and 'model="plain"' in line]


def test_case_49_a_model_s_own_buckets(server: Any, metrics: Rest) -> None:
    ask(server, "finely")
    ask(server, "plain")
    page = lines(metrics)
    family = "nv_inference_first_response_histogram_ms_bucket"
    tag = '_team="a \\"quoted\\" \\\\ one",'
    finely = [line for line in page if line.startswith(f'{family}{{{tag}model="finely"')]
    assert re.findall('le="([^"]*)"', "".join(finely)) == ["1", "2", "4", "8", "+Inf"]
    assert finely[-1].endswith(" 1")
    plain = [line for line in page if line.startswith(f'{family}{{model="plain"')]
    assert re.findall('le="([^"]*)"', "".join(plain)) == ["100", "500", "2000", "5000", "+Inf"]


@pytest.mark.parametrize(("wanted", "expected"), [
    ("text", ("TEXT named_metrics.kv_cache_utilization=0.500000, "
     "named_metrics.max_token_capacity=1024")),
    ("json", 'JSON {"named_metrics":{"kv_cache_utilization":0.5,"max_token_capacity":1024}}'),
    ("xml", None), (None, None),
])  # fmt: skip
def test_case_29_a_load_report(wanted: str | None, expected: str | None, server: Any) -> None:
    rest = Rest(server.http)
    headers = {"endpoint-load-metrics-format": wanted} if wanted else {}
    for path in ("generate", "generate_stream"):
        response = rest.post(f"/v2/models/reporter/{path}", {"IN": 1.0}, headers)
        assert response.status == 200
        assert response.headers.get("endpoint-load-metrics") == expected
    rest.close()


def test_series_vanish_with_their_model(tmp_path: Path, run_server: Callable[..., Any]) -> None:
    plain = IDENTITY % (8, "TYPE_FP32", "[ -1 ]", "TYPE_FP32", "[ -1 ]", "")
    grpc_models.write_model(tmp_path, "plain", plain)
    flags = ("--model-control-mode=explicit", "--load-model=*", "--allow-cpu-metrics=false")
    with run_server(tmp_path, *flags) as running:
        rest, metrics = Rest(running.http), Rest(running.metrics)
        ask(running, "plain")
        assert 'nv_inference_count{model="plain",version="1"} 1' in lines(metrics)
        assert rest.post("/v2/repository/models/plain/unload").status == 200
        wait_for(lambda: not [line for line in lines(metrics) if 'model="plain"' in line])
        assert rest.post("/v2/repository/models/plain/load").status == 200
        assert 'nv_inference_count{model="plain",version="1"} 0' in lines(metrics)
        rest.close()
        metrics.close()
