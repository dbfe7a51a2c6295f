"""One guard for every route and every RPC: by category, by spelling, by header and by key.

CVE-2026-24206, -24207 and -47481: a restricted API must have no second door.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from actors.grpc.services import CATEGORIES
from protocol.api_keys import hash_of
from protocol.restriction import Category
from tests.conformance import grpc_models
from tests.conformance.conftest import ROOT
from tests.conformance.http_rest import Rest, wait_for

# Every route, by method.
ROUTES: dict[str, list[tuple[str, str]]] = {
    "metadata": [("GET", "/v2"), ("GET", "/v2/models/simple"),
                 ("GET", "/v2/models/simple/versions/1")],
    "health": [("GET", "/v2/health/live"), ("GET", "/v2/health/ready"),
               ("GET", "/v2/models/simple/ready"), ("GET", "/v2/models/simple/versions/1/ready")],
    "model-config": [("GET", "/v2/models/simple/config"),
                     ("GET", "/v2/models/simple/versions/1/config")],
    "statistics": [("GET", "/v2/models/stats"), ("GET", "/v2/models/simple/stats"),
                   ("GET", "/v2/models/simple/versions/1/stats")],
    "inference": [("POST", "/v2/models/simple/infer"), ("POST", "/v2/models/simple/generate"),
                  ("POST", "/v2/models/simple/generate_stream"),
                  ("POST", "/v2/models/simple/versions/1/infer"),
                  ("POST", "/v2/models/simple/versions/1/generate"),
                  ("POST", "/v2/models/simple/versions/1/generate_stream")],
    "trace": [("GET", "/v2/trace/setting"), ("POST", "/v2/trace/setting"),
              ("GET", "/v2/models/simple/trace/setting"),
              ("POST", "/v2/models/simple/trace/setting")],
    "logging": [("GET", "/v2/logging"), ("POST", "/v2/logging")],
    "model-repository": [("POST", "/v2/repository/index"), ("POST", "/v2/repository/r/index"),
                         ("POST", "/v2/repository/models/none/load"),
                         ("POST", "/v2/repository/models/none/unload"),
                         ("POST", "/v2/repository/r/models/none/load"),
                         ("POST", "/v2/repository/r/models/none/unload")],
    "shared-memory": [
        (method, f"/v2/{kind}sharedmemory{region}/{verb}")
        for kind in ("system", "cuda")
        for region in ("", "/region/r")
        for method, verb in (("GET", "status"), ("POST", "register"), ("POST", "unregister"))
    ],
}  # fmt: skip

ALL = ",".join(category.value for category in Category)
REFUSED_ON_GRPC = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED,
                   grpc.StatusCode.PERMISSION_DENIED)  # fmt: skip


def spellings(path: str) -> Iterator[str]:
    """Other ways of writing a path that some server somewhere takes for the same."""
    yield path + "/"
    yield "/" + path
    yield path.replace("/", "//")
    yield path.replace("/v2", "/v2//", 1)
    yield path.replace("/v2", "/./v2", 1)
    yield path.replace("/v2", "/x/../v2", 1)
    yield path.replace("/v2", "/V2", 1)
    yield path.upper()
    yield path + ";a=b"
    yield path.replace("/v2", "/v2;a=b", 1)
    yield path + "?a=b"
    yield path + "%3f"
    yield path + "%00"
    yield path.replace("/v2", "/%762", 1)
    yield path.replace("/v2", "%2fv2", 1)
    yield "http://elsewhere" + path
    yield "HTTPS://elsewhere:1" + path


class Rpcs:
    """Raw calls of every RPC, with an empty request."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)

    def code(self, path: str, *metadata: tuple[str, str]) -> tuple[grpc.StatusCode, str]:
        if path.endswith(("ModelStreamInfer", "ServerReflectionInfo")):
            call = self._channel.stream_stream(path)(iter([b""]), metadata=metadata, timeout=10)
        elif path.endswith("/Watch"):
            call = self._channel.unary_stream(path)(b"", metadata=metadata, timeout=10)
        else:
            call = self._channel.unary_unary(path).future(b"", metadata=metadata, timeout=10)
            return call.code(), call.details()
        try:
            for _ in call:
                break
        except grpc.RpcError:
            return call.code(), call.details()
        call.cancel()
        return grpc.StatusCode.OK, ""

    def close(self) -> None:
        self._channel.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guarded")
    grpc_models.link_sample(path, "simple")
    return path


@pytest.fixture(scope="module")
def restricted(repository: Path, run_server: Callable[..., Any]) -> Iterator[Any]:
    with run_server(
        repository,
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--http-restricted-api={ALL}:X-Key=secret",
        f"--grpc-restricted-protocol={ALL}:key=secret",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One key for each category, `k-<category>`, and a file that may be edited."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(
        "\n".join(
            f"[keys.{category.value}]\nsha256 = '{hash_of('k-' + category.value)}'\n"
            f"categories = ['{category.value}']"
            for category in Category
        )
    )
    return path


@pytest.fixture(scope="module")
def keyed(repository: Path, keys: Path, run_server: Callable[..., Any]) -> Iterator[Any]:
    with run_server(
        repository, "--model-control-mode=explicit", "--load-model=*", f"--api-keys={keys}"
    ) as running:
        yield running


def test_every_rpc_has_a_category() -> None:
    from actors.grpc.services import services  # what is asked is what is served
    from protocol.grpc_service import MODEL_INFER, MODEL_STREAM_INFER, routes

    served = {*routes(services(None)), MODEL_INFER, MODEL_STREAM_INFER}  # type: ignore[arg-type]  # nothing is called

    assert served == set(CATEGORIES)


@pytest.mark.parametrize("category", ROUTES)
def test_cve_2026_24206_no_spelling_of_any_route_gets_past_a_restriction(
    category: str, restricted: Any
) -> None:
    rest = Rest(restricted.http)
    told = {"error": "This API is restricted, expecting header 'X-Key'"}
    for method, path in ROUTES[category]:
        for any_method in (method, "GET", "POST", "PUT"):
            answer = rest.ask(any_method, path, b"{}", {"X-Key": "Secret"})
            assert (answer.status, answer.json()) == (403, told), path
        assert rest.ask(method, path, b"{}", {"x-key": "secret"}).status != 403, path
        for spelling in spellings(path):
            assert rest.ask(method, spelling, b"{}").status in (403, 404, 400), spelling
    rest.close()


@pytest.mark.parametrize("path", CATEGORIES)
def test_cve_2026_24206_no_spelling_of_any_rpc_gets_past_a_restriction(
    path: str, restricted: Any
) -> None:
    rpcs = Rpcs(restricted.grpc)
    header = "triton-grpc-protocol-key"
    refusal = (
        grpc.StatusCode.UNAVAILABLE,
        f"This protocol is restricted, expecting header '{header}'",
    )
    assert rpcs.code(path) == refusal
    assert rpcs.code(path, (header, "Secret")) == refusal
    assert rpcs.code(path, (header, "secret"))[1] != refusal[1]
    for spelling in (path + "/", "/" + path, path.lower(), path.replace("/", "//"), path + ";a=b",
                     path + "?a=b", "/x/.." + path):  # fmt: skip
        assert rpcs.code(spelling)[0] is grpc.StatusCode.UNIMPLEMENTED, spelling
    rpcs.close()


@pytest.mark.parametrize("category", ROUTES)
def test_every_route_asks_for_a_key_that_opens_it(category: str, keyed: Any) -> None:
    rest = Rest(keyed.http)
    other = "logging" if category != "logging" else "trace"
    for method, path in ROUTES[category]:
        without = rest.ask(method, path, b"{}")
        assert without.status == 401
        assert without.headers["www-authenticate"] == "Bearer"
        assert rest.ask(method, path, b"{}", {"Authorization": "Bearer k"}).status == 401
        wrong = rest.ask(method, path, b"{}", {"Authorization": f"Bearer k-{other}"})
        assert (wrong.status, wrong.error) == (403, f"This key does not open the {category} API")
        right = rest.ask(method, path, b"{}", {"Authorization": f"Bearer k-{category}"})
        assert right.status not in (401, 403)
        for spelling in spellings(path):
            assert rest.ask(method, spelling, b"{}").status in (401, 404, 400), spelling
    rest.close()


@pytest.mark.parametrize("path", CATEGORIES)
def test_every_rpc_asks_for_a_key_that_opens_it(path: str, keyed: Any) -> None:
    rpcs = Rpcs(keyed.grpc)
    category = CATEGORIES[path].value
    other = "logging" if category != "logging" else "trace"
    assert rpcs.code(path)[0] is grpc.StatusCode.UNAUTHENTICATED
    wrong = rpcs.code(path, ("authorization", f"Bearer k-{other}"))
    assert wrong == (
        grpc.StatusCode.PERMISSION_DENIED,
        f"This key does not open the {category} API",
    )
    right = rpcs.code(path, ("authorization", f"Bearer k-{category}"))
    assert right[0] not in REFUSED_ON_GRPC
    rpcs.close()


def test_keys_are_revoked_on_open_connections_too(keyed: Any, keys: Path) -> None:
    rest, rpcs = Rest(keyed.http), Rpcs(keyed.grpc)
    key = {"Authorization": "Bearer k-metadata"}
    metadata = "/inference.GRPCInferenceService/ServerMetadata"
    assert rest.get("/v2", **key).status == 200
    assert rpcs.code(metadata, ("authorization", key["Authorization"]))[0] is grpc.StatusCode.OK
    before = keys.read_text()

    keys.write_text("[keys")
    keyed.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any("API keys stay as they were" in line for line in keyed.lines))
    assert rest.get("/v2", **key).status == 200
    keys.write_text("")
    keyed.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any("0 API keys hold from now on" in line for line in keyed.lines))

    assert rest.get("/v2", **key).status == 401
    code, _ = rpcs.code(metadata, ("authorization", key["Authorization"]))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    keys.write_text(before)
    keyed.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any("9 API keys hold from now on" in line for line in keyed.lines))
    assert rest.get("/v2", **key).status == 200
    assert not [line for line in keyed.lines if "k-metadata" in line]
    rest.close()
    rpcs.close()


def test_a_key_is_made_for_the_file() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "troupe", "key", "ci", "inference"],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    key = made.stderr.removeprefix("Authorization: Bearer ").strip()

    assert len(key) == 43
    assert made.stdout == (f'[keys."ci"]\nsha256 = "{hash_of(key)}"\ncategories = ["inference"]\n')
    wrong = subprocess.run(
        [sys.executable, "-m", "troupe", "key", "ci", "nonsense"],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert (wrong.returncode, wrong.stdout) == (1, "")
