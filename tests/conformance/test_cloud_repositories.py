"""Model repositories in object storage, served by a real server and asked by a real client.

S3 is moto's server on loopback; Google's and Azure's clients talk to stores that know enough.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.conformance.conftest import ROOT, ServerProcess
from tests.conformance.object_stores import azure, google

boto3 = pytest.importorskip("boto3", reason="the cloud extra is not installed")
moto_server = pytest.importorskip("moto.server", reason="moto's server is not installed")

SAMPLE = ROOT / "sample_repository"
BUCKET = "models"
KEY, SECRET = "the-key", "the-secret"
DOUBLER = """
import numpy as np
import triton_python_backend_utils as pb_utils

FACTOR = 2


class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(each, "IN") for each in requests]
        outputs = [pb_utils.Tensor("OUT", one.as_numpy() * np.float32(FACTOR)) for one in inputs]
        return [pb_utils.InferenceResponse([output]) for output in outputs]
"""
CONFIG = """
backend: "python"
input { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] }
"""


def _objects() -> dict[str, bytes]:
    """Two models: one of Python, and the sample repository's digits of ONNX."""
    objects = {
        "some/repo/doubler/config.pbtxt": CONFIG.encode(),
        "some/repo/doubler/1/model.py": DOUBLER.encode(),
    }
    for path in (SAMPLE / "digits").rglob("*"):
        if path.is_file():
            key = f"some/repo/digits/{path.relative_to(SAMPLE / 'digits')}"
            objects[key] = path.read_bytes()
    return objects


class S3:
    """moto's server, and how to change what is in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def location(self) -> str:
        return f"s3://{self.url.removeprefix('http://')}/{BUCKET}/some/repo"

    def put(self, objects: dict[str, bytes]) -> None:
        for key, content in objects.items():
            self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        urllib.request.urlopen(f"{url}/moto-api/reset", data=b"").close()  # one for all servers
        yield S3(url)
    finally:
        server.stop()


def _doubled(server: ServerProcess) -> list[float]:
    with triton.InferenceServerClient(server.http) as client:
        tensor = triton.InferInput("IN", [4], "FP32")
        tensor.set_data_from_numpy(np.arange(4, dtype=np.float32))
        values: list[float] = client.infer("doubler", [tensor]).as_numpy("OUT").tolist()
        return values


def _label_is_found(server: ServerProcess) -> bool:
    with triton.InferenceServerClient(server.http) as client:
        tensor = triton.InferInput("INPUT", [1, 64], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 64), np.float32))
        return bool(client.infer("digits", [tensor]).as_numpy("LABEL").shape == (1, 1))


def test_s3_is_served_like_a_directory_and_downloaded_once(s3: S3, tmp_path: Path) -> None:
    s3.put(_objects())
    kept = f"--download-cache-directory={tmp_path / 'kept'}"
    for _ in range(2):
        server = ServerProcess(s3.location, kept)
        try:
            assert _doubled(server) == [0.0, 2.0, 4.0, 6.0]
            assert _label_is_found(server)
        finally:
            assert server.stop() == 0
    entries = [path for path in (tmp_path / "kept").glob("??/*") if not path.suffix]
    assert len(entries) == len(_objects())


def test_s3_is_polled(s3: S3) -> None:
    s3.put(_objects())
    server = ServerProcess(s3.location, "--model-control-mode=poll", "--repository-poll-secs=1")
    try:
        assert _doubled(server)[1] == 2.0
        s3.put({"some/repo/doubler/1/model.py": DOUBLER.replace("= 2", "= 5").encode()})
        s3.delete("some/repo/digits/config.pbtxt")
        server.wait_for("successfully loaded 'doubler'", times=2)
        assert _doubled(server)[1] == 5.0
    finally:
        assert server.stop() == 0


def test_a_load_takes_what_is_there_now(s3: S3) -> None:
    s3.put(_objects())
    server = ServerProcess(s3.location, "--model-control-mode=explicit", "--load-model=doubler")
    try:
        with triton.InferenceServerClient(server.http) as client:
            s3.put({"some/repo/doubler/2/model.py": DOUBLER.replace("= 2", "= 7").encode()})
            client.load_model("doubler")
            assert client.is_model_ready("doubler", "2")
            assert _doubled(server)[1] == 7.0
            s3.put({"some/repo/doubler/../../evil": b"evil"})
            with pytest.raises(InferenceServerException, match="failed to load 'doubler'"):
                client.load_model("doubler", config=json.dumps({"backend": "python"}))
            assert _doubled(server)[1] == 7.0
            client.unload_model("doubler")
    finally:
        assert server.stop() == 0


def test_credentials_come_from_the_file_of_prefixes(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put(_objects())
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps({"s3": {s3.location: {"key_id": KEY, "secret_key": SECRET}}}))
    monkeypatch.setenv("TRITON_CLOUD_CREDENTIAL_PATH", str(credentials))

    server = ServerProcess(s3.location)
    try:
        assert _doubled(server)[1] == 2.0
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("s3://127.0.0.1:1/models", "cannot read 's3://127.0.0.1:1/models'"),
        ("s3://{host}/no-such-bucket", "The specified bucket does not exist"),
        ("s3://", "repository location 's3://' names no bucket"),
    ],
)
def test_a_repository_that_cannot_be_read_ends_the_start(
    s3: S3, location: str, reason: str
) -> None:
    with pytest.raises(AssertionError) as failure:
        ServerProcess(location.format(host=s3.url.removeprefix("http://")))

    assert reason in str(failure.value)


def _serve_once(location: str) -> None:
    server = ServerProcess(location)
    try:
        assert _doubled(server) == [0.0, 2.0, 4.0, 6.0]
        assert _label_is_found(server)
    finally:
        assert server.stop() == 0


def test_google_s_storage_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    with google(BUCKET, _objects()) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        _serve_once(f"gs://{BUCKET}/some/repo")


def test_azure_s_storage_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    with azure(BUCKET, _objects()) as url:
        monkeypatch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey=a2V5;"
            f"BlobEndpoint={url}/account;",
        )
        _serve_once(f"as://account/{BUCKET}/some/repo")
