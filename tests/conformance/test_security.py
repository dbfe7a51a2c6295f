"""What went wrong in inference servers before, tried on the REST port; CVE numbers name the case.

Every test ends by asking whether the server still lives.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fuzz.fuzz_rest_server import JSON_ROUTES, SYSTEM, calm_down, draw, judge, resident_kib
from tests.conformance import grpc_models
from tests.conformance.http_rest import (
    MAX_INPUT,
    Rest,
    connect,
    converse,
    hear_out,
    pair,
    tensor,
    wait_for,
)

pytest_plugins = ("tests.conformance.http_fixtures",)

INFER = "/v2/models/simple/infer"


@pytest.fixture(autouse=True)
def it_lives(rest: Rest) -> Iterator[None]:
    yield
    client = Rest(rest.address)
    assert client.get("/v2/health/live").status == 200
    client.close()


def ask(address: str, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """One request on a connection of its own: status and body of the first answer."""
    lines = f"{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = converse(address, lines.encode("latin-1") + body)
    status_line, _, rest = answer.partition(b"\r\n")
    return int(status_line.split()[1]), rest.partition(b"\r\n\r\n")[2]


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "file:../../escaped", "file:/{outside}/escaped", "file:1/../../escaped", "file:" + "a" * 256,
    "file:a\0b", "file:", "file:.", "file:1/./../..", "file:~/escaped", "file:\\..\\escaped",
])  # fmt: skip
def test_cve_2023_31036_files_of_a_load_stay_inside(
    name: str, rest: Rest, tmp_path: Path, http_notes: Path
) -> None:
    name = name.replace("/{outside}", str(tmp_path))
    body = {"parameters": {"config": "{}", name: base64.b64encode(b"x").decode()}}
    response = rest.post("/v2/repository/models/ident_BOOL/load", body)
    assert response.status in (400, 500), response.status
    places = (tmp_path, http_notes.parent, Path.cwd(), Path.cwd().parent, Path("/"), Path.home())
    assert not [each for place in places for each in place.glob("*escaped*")]


def test_cve_2024_0087_and_0100_no_request_names_a_file_to_write(
    rest: Rest, tmp_path: Path
) -> None:
    path = tmp_path / "written"
    for route, key in (("/v2/logging", "log_file"), ("/v2/trace/setting", "trace_file")):
        for value in (str(path), "", None):
            response = rest.post(route, {key: value})
            expected = 200 if key == "log_file" and value is None else 501
            assert response.status == expected
    assert not path.exists()


@pytest.mark.parametrize("name", [
    "%2e%2e", "..%2fx", "%2e%2e%2f%2e%2e%2fetc", "%2fetc", ".%2e", "a%5Cb", "a%00b", "%20", ".",
    "a;touch%20{path}", "$(touch%20{path})", "`touch%20{path}`",
])  # fmt: skip
def test_cve_2026_24147_and_2025_23316_names_are_only_names(
    name: str, rest: Rest, tmp_path: Path
) -> None:
    path = tmp_path / "touched"
    quoted = name.replace("{path}", str(path).replace("/", "%2F"))
    for verb in ("load", "infer"):
        root = "/v2/repository/models" if verb == "load" else "/v2/models"
        response = rest.post(f"{root}/{quoted}/{verb}", {"inputs": []})
        assert response.status in (400, 404, 500)
        assert "error" in response.json()
    assert not path.exists()


# --- shared memory -------------------------------------------------------------------------------

EDGES = (0, 1, 4096, 8128, 8129, 8191, 8192, 8193, 2**31, 2**32, 2**63, 2**64 - 64, 2**64 - 1)


def test_cve_2024_0088_and_2025_23319_no_span_leaves_its_region(
    rest: Rest, memory: SharedMemory
) -> None:
    body = {"key": memory.name, "byte_size": 8192}
    assert rest.post(f"{SYSTEM}/region/edges/register", body).status == 200
    for offset, size in itertools.product(EDGES, (*EDGES, 64)):
        use = {"shared_memory_region": "edges", "shared_memory_offset": offset}
        use["shared_memory_byte_size"] = size
        given = tensor("INPUT0", "INT32", [1, 16], **use)
        response = rest.infer("simple", {"inputs": [given, pair()[1]]})
        fits = offset < 8192 and offset + size <= 8192
        assert response.status == (200 if fits and size == 64 else 400), (offset, size)
        wanted = tensor("OUTPUT0", "", [], **use)
        response = rest.infer("simple", {"inputs": pair(), "outputs": [wanted]})
        expected = (200 if size >= 64 else 500) if fits else 400
        assert response.status == expected, (offset, size)
        response = rest.post(f"{SYSTEM}/region/new/register", {**body, "offset": offset})
        expected = 200 if offset == 0 else 400
        assert response.status == expected
        rest.post(f"{SYSTEM}/region/new/unregister")
    given = tensor("INPUT0", "INT32", [1, 16], shared_memory_region="edges",
                   shared_memory_byte_size=2**64)  # fmt: skip
    assert rest.infer("simple", {"inputs": [given, pair()[1]]}).status == 500
    assert rest.post(f"{SYSTEM}/region/edges/unregister").status == 200


def test_cve_2025_23320_no_answer_tells_where_models_keep_their_memory(rest: Rest) -> None:
    wrong = [
        ("curious", {"inputs": [tensor("IN", "FP32", [2**20], [0] * 10)]}),
        ("teller", {"inputs": [tensor("PROMPT", "BYTES", [1], ["x" * 500_000])],
                    "outputs": [tensor("TEXT", "", [], shared_memory_region="no",
                                       shared_memory_byte_size=1)]}),
        ("patient", {"inputs": [tensor("IN", "FP32", [0], [])]}),
    ]  # fmt: skip
    for model, body in wrong:
        response = rest.infer(model, body)
        assert response.status >= 400
        for secret in (b"shm", b"/dev/", b"memfd"):
            assert secret not in response.body, response.body


def test_cve_2024_0116_a_region_in_use_outlives_its_name(
    rest: Rest, memory: SharedMemory, http_notes: Path
) -> None:
    assert memory.buf is not None
    memory.buf[:4] = struct.pack("<f", 0.25)
    assert rest.post(f"{SYSTEM}/region/used/register", {"key": memory.name, "byte_size": 8192})
    use = {"shared_memory_region": "used", "shared_memory_byte_size": 4}
    body = json.dumps({"id": "used", "inputs": [tensor("IN", "FP32", [1], **use)]}).encode()
    with connect(rest.address) as peer:
        head = f"POST /v2/models/patient/infer HTTP/1.1\r\nContent-Length: {len(body)}\r\n"
        peer.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
        wait_for((http_notes / "began used").exists)
        assert rest.post(f"{SYSTEM}/region/used/unregister").status == 200
        assert [each["name"] for each in rest.get(f"{SYSTEM}/status").json()] == ["used"]
        assert b'"data":[0.25]' in hear_out(peer)
    assert rest.get(f"{SYSTEM}/status").json() == []


def test_cve_2026_47478_registering_in_vain_costs_no_descriptor(
    rest: Rest, http_server: Any, memory: SharedMemory
) -> None:
    before = http_server.open_files()
    for number in range(300):
        for key, size in (("/nope", 1), (memory.name, 8193), (memory.name, 1)):
            body = {"key": key, "byte_size": size, "offset": number % 7}
            rest.post(f"{SYSTEM}/region/r{number}/register", body)
        rest.post(f"{SYSTEM}/region/r{number}/unregister")
    assert http_server.open_files() <= before + 1


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [
    [2**31], [2**32 + 1], [2**40], [2**60 + 2], [1, 2**62], [2**63 - 1], [2**32, 2**32],
    [0, 2**63 - 1], [2**64], [10**400],
])  # fmt: skip
def test_cve_2025_23323_and_23331_nothing_is_allocated_by_claim(
    dims: list[int], rest: Rest, http_server: Any
) -> None:
    before = resident_kib(http_server)
    for datatype in ("INT8", "FP64", "BYTES"):
        for more in ({"data": [1]}, {"parameters": {"binary_data_size": 4}}):
            given = {"name": "INPUT0", "datatype": datatype, "shape": dims, **more}
            response = rest.infer(f"ident_{datatype}", {"inputs": [given]}, bytes(4))
            assert response.status in (400, 500)
            assert "error" in response.json()
    assert resident_kib(http_server) - before < 2048


def test_cve_2025_33211_a_claimed_length_costs_nothing(rest: Rest, http_server: Any) -> None:
    before = resident_kib(http_server)
    peers = [connect(rest.address) for _ in range(50)]
    for peer in peers:
        peer.sendall(
            b"POST /v2/models/simple/infer HTTP/1.1\r\nContent-Length: 2147483647\r\n\r\n{"
        )
    assert rest.get("/v2/health/live").status == 200
    assert resident_kib(http_server) - before < 4096
    for peer in peers:
        peer.close()
    assert ask(rest.address, f"POST {INFER} HTTP/1.1\r\nX: y")[0] == 400
    answer = converse(
        rest.address, b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 400")


def test_cve_2024_53880_a_load_is_no_larger_than_any_document(rest: Rest) -> None:
    body = {"parameters": {"file:1/x": "A" * (MAX_INPUT + 1)}}
    response = rest.post("/v2/repository/models/ident_BOOL/load", body)
    assert response.status == 400
    assert "exceeds the maximum allowed input size" in response.error


def test_cve_2025_23317_more_data_than_the_shape_holds(rest: Rest) -> None:
    for datatype, value in (("BYTES", "x" * 100), ("FP32", 1e30), ("INT64", 2**62), ("BOOL", True)):
        for count in (2, 17, 5000):
            given = tensor("INPUT0", datatype, [1, 1], [value] * count)
            response = rest.infer(f"ident_{datatype}", {"inputs": [given]})
            assert response.status == 500
            assert "does not match true shape" in response.error


NOTHINGS: tuple[Any, ...] = ([], [[]], "", 0, [0] * 8)


def test_cve_2025_23321_nothing_is_divided_by_zero(rest: Rest) -> None:
    raw = {"Inference-Header-Content-Length": "0"}
    for model in ("fixed", "ident_FP32", "ident_BYTES", "one_string", "two_wild", "rep"):
        for size in (0, 1, 4, 33):
            assert rest.post(f"/v2/models/{model}/infer", bytes(size), raw).status in (
                200, 400, 501,
            )  # fmt: skip
        for given in NOTHINGS:
            response = rest.post(f"/v2/models/{model}/generate", {"INPUT0": given, "IN": given})
            assert response.status in (200, 400, 500)


def test_cve_2026_24146_outputs_are_counted(rest: Rest, http_server: Any) -> None:
    before = resident_kib(http_server)
    many = [{"name": f"O{number}"} for number in range(30_000)]
    response = rest.infer("simple", {"inputs": pair(), "outputs": many})
    assert (response.status, response.error) == (
        400, "unexpected inference output 'O0' for model 'simple'",
    )  # fmt: skip
    body = b'{"inputs":[],"outputs":[' + b'{"name":"O"},' * 10**6 + b"{}]}"
    assert rest.post(INFER, body).status == 400
    assert resident_kib(http_server) - before < 16384


# --- compression, chunks, nesting ----------------------------------------------------------------


def test_cve_2026_24158_bombs_do_not_go_off(rest: Rest, http_server: Any) -> None:
    zeros = bytes(1 << 20)
    bombs = [
        ("gzip", gzip.compress(bytes(64 << 20))),
        ("deflate", zlib.compress(bytes(64 << 20))),
        ("gzip", gzip.compress(zeros) * 64),  # as many members
        ("gzip", gzip.compress(b"") * 5000),
        ("gzip", gzip.compress(gzip.compress(bytes(64 << 20)) * 8)),
    ]
    before = resident_kib(http_server)
    for _ in range(3):
        for encoding, bomb in bombs:
            response = rest.post(INFER, bomb, {"Content-Encoding": encoding})
            assert response.status in (400, 500)
    assert resident_kib(http_server) - before < 2 * MAX_INPUT // 1024 + 2048


def test_cve_2026_47476_corrupt_streams_leave_nothing(rest: Rest, http_server: Any) -> None:
    random = Random(1)
    good = gzip.compress(json.dumps({"inputs": pair()}).encode())

    def try_some(count: int) -> None:
        for _ in range(count):
            broken = bytearray(good)
            for _ in range(3):
                broken[random.randrange(len(broken))] = random.randrange(256)
            cut = bytes(broken[: random.randrange(1, len(broken))])
            response = rest.post(INFER, cut, {"Content-Encoding": "gzip"})
            assert response.status == 400

    try_some(500)
    before = resident_kib(http_server)
    try_some(2000)
    assert resident_kib(http_server) - before < 1024


def test_cve_2025_23310_chunks_are_counted_not_stacked(rest: Rest, http_server: Any) -> None:
    before = resident_kib(http_server)
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    answer = converse(rest.address, head + b"1\r\nx\r\n" * 65_537 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert resident_kib(http_server) - before < 8192
    for chunk in (b"-1\r\n", b"0x1\r\nx\r\n", b"fffffffffffffffff\r\n", b"1;" + b"a" * 999,
                  b"1\nx\n", b" 1\r\nx\r\n", b"ffffffffffffffff\r\nx"):  # fmt: skip
        assert converse(rest.address, head + chunk).startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))


@pytest.mark.parametrize("path", JSON_ROUTES)
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_cve_2025_23325_no_nesting_is_too_deep_to_be_refused(
    path: str, opened: str, closed: str, rest: Rest
) -> None:
    for body in (opened * 150_000, opened * 100_000 + "1" + closed * 100_000):
        response = rest.post(path, body.encode())
        assert 400 <= response.status < 502
        assert "error" in response.json()


# --- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [
    "99999999999", "-1", "0x10", "1e3", "1 2", "", "\xb2", "+", "1\t1", "9" * 5000, "0b1", "1_0",
])  # fmt: skip
def test_cve_2026_24175_header_lengths_that_are_none(value: str, rest: Rest) -> None:
    body = json.dumps({"inputs": pair()}).encode()
    head = f"POST {INFER} HTTP/1.1\r\nInference-Header-Content-Length: {value}"
    status, answer = ask(rest.address, head, body)
    assert status == 400
    assert "error" in json.loads(answer)
    twice = f"POST {INFER} HTTP/1.1" + f"\r\nInference-Header-Content-Length: {len(body)}" * 2
    assert ask(rest.address, twice, body)[0] == 400


@pytest.mark.parametrize("head", [
    b"POST /v2 HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v2 HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"POST /v2 HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\nabc",
    b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
    b"POST /v2 HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST /v2 HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
    b"POST /v2 HTTP/1.1\r\nContent-Length: 0x3\r\n\r\nabc",
    b"GET /v2 HTTP/1.1\nHost: x\n\n",
    b"GET /v2 HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nX\0: a\r\n\r\n",
    b"GET /v2 HTTP/1.1 x\r\n\r\n",
    b"GET /v2\r\n\r\n",
    b"G\xc3\xa9T /v2 HTTP/1.1\r\n\r\n",
])  # fmt: skip
def test_two_readers_of_one_head_cannot_disagree(head: bytes, rest: Rest) -> None:
    answer = converse(rest.address, head)
    assert answer[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 5")
    assert answer.count(b"HTTP/1.1") == 1


def test_no_answer_repeats_what_would_break_it(rest: Rest) -> None:
    for path in ("/v2/models/%0d%0aX-Evil:%201/infer", "/v2/models/<script>/infer"):
        response = rest.post(path, {"inputs": []})
        assert response.status == 404
        assert "x-evil" not in response.headers
        assert response.headers["content-type"] == "application/json"
        assert response.json()["error"].startswith("Request for unknown model: '")
    body = {"id": "a\r\nX-Evil: 1", "inputs": pair()}
    response = rest.infer("simple", body)
    assert response.json()["id"] == "a\r\nX-Evil: 1"
    assert "x-evil" not in response.headers


def test_secrets_in_heads_are_not_logged(rest: Rest, http_server: Any) -> None:
    for status in (200, 404):
        path = "/v2" if status == 200 else "/nope"
        assert rest.ask("GET", path, headers={"Authorization": "hunter2"}).status == status
    ask(rest.address, "GET /v2 HTTP/1.1\r\nAuthorization: hunter2\r\nExpect: wonders")
    assert not [line for line in http_server.lines if "hunter2" in line]


# --- restriction ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restricted(
    tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("restricted")
    grpc_models.link_sample(repository, "simple")
    with run_server(
        repository,
        "--model-control-mode=explicit",
        "--load-model=*",
        "--http-restricted-api=model-repository,logging,inference:X-Key=secret",
    ) as running:
        yield running


@pytest.mark.parametrize("path", [
    "/v2/repository/index", "/v2//repository/index", "//v2/repository/index",
    "/v2/repository//index", "/v2/repository/index/", "/v2/repository/index;a=b",
    "/v2/repository/index?a=b", "/V2/repository/index", "/v2/Repository/index",
    "/v2/%72epository/index", "/v2/./repository/index", "/v2/models/../repository/index",
    "http://x/v2/repository/index", "HTTP://x/v2/repository/index", "/v2/repository/x/index",
    "/v2/repository/%2e%2e/index", "v2/repository/index", "/v2/models/simple/%2e%2e/infer",
    "/v2/models/simple/infer", "/v2/models/simple/versions/1/infer", "/v2/models/simple/generate",
    "/v2/logging", "/v2/logging#x", "*", "/v2/repository/models/simple/unload",
])  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "GET", "post"])
def test_cve_2026_24206_no_spelling_of_a_route_avoids_its_restriction(
    path: str, method: str, restricted: Any
) -> None:
    for line in ("", "\r\nX-Key: Secret", "\r\nX-Key: secret\0", "\r\nX-Key: secret, secret",
                 "\r\nX_Key: secret"):  # fmt: skip
        status, body = ask(restricted.http, f"{method} {path} HTTP/1.1{line}", b"{}")
        assert status in (400, 403, 404)
        if status == 403:
            text = {"error": "This API is restricted, expecting header 'X-Key'"}
            assert json.loads(body) == text


def test_case_47_what_is_restricted_and_what_is_not(restricted: Any) -> None:
    rest = Rest(restricted.http)
    key = {"x-key": "secret"}
    assert rest.post("/v2/repository/index").status == 403
    assert rest.post("/v2/repository/index", b"", key).status == 200
    assert rest.get("/v2/logging").status == 403
    assert rest.get("/v2/logging", **key).status == 200
    assert rest.infer("simple", {"inputs": pair()}).status == 403
    assert rest.infer("simple", {"inputs": pair()}, headers=key).status == 200
    assert rest.get("/v2/models/simple").status == 200
    assert rest.get("/v2/health/ready").status == 200
    rest.close()


# --- races and fuzz ------------------------------------------------------------------------------


def test_cve_2025_33238_control_and_work_at_the_same_time(http_server: Any) -> None:
    """Every answer is one of those that some order of events explains."""
    surprises: list[tuple[str, int, bytes]] = []

    def repeat(count: int, method: str, path: str, allowed: set[int], body: bytes = b"") -> None:
        rest = Rest(http_server.http)
        for _ in range(count):
            response = rest.ask(method, path, body)
            if response.status not in allowed and not (
                path.endswith("/load") and b"Newer operation has been applied" in response.body
            ):
                surprises.append((path, response.status, response.body))
        rest.close()

    given = tensor("INPUT0", "UINT16", [1, 1], [1])
    body = json.dumps({"inputs": [given]}).encode()
    root = "/v2/repository/models/ident_UINT16"
    work: list[tuple[Any, ...]] = [
        (30, "POST", f"{root}/load", {200}),
        (30, "POST", f"{root}/unload", {200}),
        (60, "POST", "/v2/repository/index", {200}),
        (60, "GET", "/v2/models/ident_UINT16/stats", {200, 400}),
        (100, "POST", "/v2/models/ident_UINT16/infer", {200, 404, 503}, body),
        (60, "GET", "/v2/models/ident_UINT16/ready", {200, 400}),
    ]
    threads = [threading.Thread(target=repeat, args=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert surprises == []
    rest = Rest(http_server.http)
    assert rest.post(f"{root}/load").status == 200
    assert rest.infer("ident_UINT16", {"inputs": [given]}).status == 200
    rest.close()


def test_cve_2026_47629_any_body_on_any_route_is_answered(rest: Rest, http_server: Any) -> None:
    random = Random(7)
    files = http_server.open_files()
    for _ in range(1500):
        drawn = draw(random)
        judge(drawn, rest.ask(drawn.method, drawn.path, drawn.body, drawn.headers))
    calm_down(rest)
    assert http_server.open_files() <= files + 2


def test_garbage_of_any_kind_is_answered_or_dropped(rest: Rest, http_server: Any) -> None:
    random = Random(11)
    good = b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    for _ in range(300):
        data = bytearray(good * random.randrange(1, 3))
        for _ in range(random.randrange(1, 6)):
            place = random.randrange(len(data))
            data[place : place + random.randrange(3)] = random.randbytes(random.randrange(4))
        with connect(rest.address) as peer:
            peer.sendall(bytes(data))
            peer.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                hear_out(peer)
    assert not [line for line in http_server.lines if "Traceback" in line]


def test_cve_2024_0103_nothing_of_a_cut_request_is_seen_again(rest: Rest) -> None:
    secret = b"S3CR3T" * 2000
    for _ in range(20):
        with connect(rest.address) as peer:
            head = b"POST /v2/models/ident_BYTES/infer HTTP/1.1\r\nContent-Length: 99999\r\n\r\n"
            peer.sendall(head + secret)
    for datatype in ("INT8", "BYTES"):
        given = tensor("INPUT0", datatype, [1, 0], [])
        response = rest.infer(f"ident_{datatype}", {"inputs": [given]})
        assert b"S3CR3T" not in response.body
