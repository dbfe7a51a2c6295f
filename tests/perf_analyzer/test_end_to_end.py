"""The load generator against Troupe's own server, over real sockets and without any."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from actors.settings.options import ServerOptions
from perf_analyzer.command_line import parse
from perf_analyzer.main import perf
from perf_analyzer.session import Ports, Session
from tests.perf_analyzer.runs import WALL_NS, Run
from troupe.perf import embedded
from troupe.server import Server

REPOSITORY = Path(__file__).parents[2] / "sample_repository"
# Three short windows, whatever they show: these tests are about bytes, not about numbers.
BRIEF = "-p 50 -s 100000 -r 3"


def perf_on_troupe(arguments: str, **options: object) -> Run:
    """Serve `simple` on free ports and load it. HTTP unless the arguments say gRPC."""
    seen = Run()

    async def main() -> None:
        server = Server(
            ServerOptions(
                model_repository=(str(REPOSITORY),),
                model_control_mode="explicit",
                load_model=("simple",),
                http_address="127.0.0.1",
                http_port=0,
                grpc_address="127.0.0.1",
                grpc_port=0,
                allow_metrics=False,
                allow_client_shm=True,
                **options,  # type: ignore[arg-type]  # passed through
            )
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            port = server.grpc_port if "-i grpc" in arguments else server.http_port
            address = f"localhost:{port}" if "--ssl" in arguments else f"127.0.0.1:{port}"
            chosen = parse(["-m", "simple", "-u", address, *arguments.split()])
            ports = Ports(wall_ns=lambda: WALL_NS, listens_to_signals=False)
            try:
                seen.status = await Session(chosen, ports, seen).run()
            finally:
                server.stop()

    trio.run(main)
    return seen


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--concurrency-range 8 -b 2",
        "--input-tensor-format json --output-tensor-format json",
        "--request-rate-range 200",
        "--shared-memory system",
        "-i grpc",
        "-i grpc --concurrency-range 8",
        "-i grpc --async --grpc-compression-algorithm gzip",
        "-i grpc --shared-memory system",
        "-i grpc --streaming --concurrency-range 4",
        "-i grpc --request-rate-range 200 --async",
    ],
)
def test_troupe_is_loaded_and_counts_the_same(arguments: str) -> None:
    seen = perf_on_troupe(f"{BRIEF} {arguments}")

    assert seen.errors == []
    assert seen.status == 0
    assert seen.value("Request count") > 10
    # The server may count those in flight at the edges, too.
    assert seen.value("Successful request count") == pytest.approx(
        seen.value("Request count"), abs=20
    )
    assert seen.value("Avg request latency") > 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_sums_and_differences_are_right(tmp_path: Path, protocol: str) -> None:
    data = tmp_path / "data.json"
    one, other = list(range(16)), [5] * 16
    right = {"OUTPUT0": [n + 5 for n in one], "OUTPUT1": [n - 5 for n in one]}

    def write(expected: dict[str, list[int]]) -> None:
        steps = [{"INPUT0": one, "INPUT1": other}]
        data.write_text(json.dumps({"data": steps, "validation_data": [expected]}))

    write(right)
    assert perf_on_troupe(f"-i {protocol} --request-count 5 --input-data {data}").status == 0
    write({**right, "OUTPUT1": one})
    wrong = perf_on_troupe(f"-i {protocol} --request-count 5 --input-data {data}")
    assert wrong.status == 99
    assert wrong.errors[-1].endswith("Output doesn't match expected output")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_unknown_model_is_named_by_either_protocol(protocol: str) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        perf_on_troupe(f"-i {protocol} -m nope")

    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert str(error).startswith("failed to get model metadata: ")
    assert "'nope'" in str(error)


def test_grpc_over_tls(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)

    seen = perf_on_troupe(
        f"{BRIEF} -i grpc --ssl-grpc-use-ssl --ssl-grpc-root-certifications-file {certificate}",
        grpc_use_ssl=True,
        grpc_server_cert=str(certificate),
        grpc_server_key=str(key),
    )

    assert seen.status == 0
    assert seen.value("Request count") > 10


@pytest.fixture
def one_model(tmp_path: Path) -> Path:
    """A repository with nothing but `simple`."""
    shutil.copytree(REPOSITORY / "simple", tmp_path / "models" / "simple")
    return tmp_path / "models"


def test_a_server_in_this_process_needs_no_socket(
    one_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"-m simple --service-kind in-process --model-repository {one_model} {BRIEF}"

    status = perf(arguments.split(), embed=embedded)

    said = capsys.readouterr()
    assert status == 0, said.err
    assert "  Service Kind: TRITON_C_API\n" in said.out
    assert "Avg in-process time: " in said.out
    assert "Successful request count: " in said.out


def test_an_absent_repository_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"-m m --service-kind in-process --model-repository {tmp_path / 'none'}"

    assert perf(arguments.split(), embed=embedded) == 99
    assert capsys.readouterr().err == (
        "error: failed to load the models: repository path is not a valid directory\n"
    )


def test_a_program_without_a_server_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert perf(["-m", "m", "--service-kind", "in-process", "--model-repository", "x"]) == 99
    assert "use `troupe perf`" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_trace_settings_reach_the_server(tmp_path: Path, protocol: str) -> None:
    trace = "--trace-level TIMESTAMPS --trace-rate 2 --trace-count 5 --log-frequency 2"
    file = tmp_path / "trace.json"
    seen = perf_on_troupe(
        f"-i {protocol} --request-count 30 {trace}", trace_config=(f"triton,file={file}",)
    )

    assert seen.status == 0
    counts = {
        path.name: sum("model_name" in item for item in json.loads(path.read_text()))
        for path in tmp_path.iterdir()
    }
    assert counts == {"trace.json.0": 2, "trace.json.1": 2, "trace.json.2": 1}
