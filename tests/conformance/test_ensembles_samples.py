"""The pipelines of the sample repository, asked by the clients that Triton's users have."""

from __future__ import annotations

import json
import queue
import struct
import urllib.request
import zlib
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tritonclient.utils import InferenceServerException

CLIENTS = [pytest.param(grpcclient, id="grpc"), pytest.param(httpclient, id="http")]
WAIT_SECONDS = 20.0


def connect(client: ModuleType, server: Any) -> Any:
    return client.InferenceServerClient(server.grpc if client is grpcclient else server.http)


def tensor(client: ModuleType, name: str, array: npt.NDArray[Any], datatype: str) -> Any:
    given = client.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def held_out() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The images and labels that the training of `digits` never saw, as in its train.py."""
    pixels, labels = load_digits(return_X_y=True)
    _, images, _, expected = train_test_split(
        pixels, labels, test_size=0.2, random_state=1797, stratify=labels
    )
    return images.astype(np.float32), expected


def picture(pixels: npt.NDArray[np.float32]) -> bytes:
    """A PNG file of 8 x 8 pixels: dark ink on light paper."""
    grey = (255 - np.round(pixels.reshape(8, 8) / 16 * 255)).astype(np.uint8)

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    rows = b"".join(b"\0" + row.tobytes() for row in grey)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def pictures(client: ModuleType, images: npt.NDArray[np.float32]) -> Any:
    return tensor(client, "IMAGE", np.array([[picture(one)] for one in images], object), "BYTES")


def counts(server: Any, model: str) -> dict[str, int]:
    with httpclient.InferenceServerClient(server.http) as triton:
        (row,) = triton.get_inference_statistics(model)["model_stats"]
    return {
        "success": row["inference_stats"]["success"]["count"],
        "fail": row["inference_stats"]["fail"]["count"],
        "inferences": row["inference_count"],
    }


@pytest.mark.parametrize("client", CLIENTS)
def test_the_pipeline_reads_pictures_of_held_out_digits(
    client: ModuleType, sample_server: Any
) -> None:
    images, expected = held_out()
    before = {name: counts(sample_server, name) for name in ("digits_pipeline", "digits_decode")}
    right = 0
    with connect(client, sample_server) as triton:
        for start in range(0, len(images), 60):
            answer = triton.infer("digits_pipeline", [pictures(client, images[start : start + 60])])
            right += int((answer.as_numpy("LABEL")[:, 0] == expected[start : start + 60]).sum())
    assert right / len(images) >= 0.97
    for name, counted in before.items():
        now = counts(sample_server, name)
        assert now["inferences"] - counted["inferences"] == 360
        assert now["success"] - counted["success"] == 6


@pytest.mark.parametrize("client", CLIENTS)
def test_labels_are_those_of_the_model_that_makes_the_output(
    client: ModuleType, sample_server: Any
) -> None:
    images, expected = held_out()
    wanted = client.InferRequestedOutput("PROBABILITIES", class_count=1)
    with connect(client, sample_server) as triton:
        answer = triton.infer("digits_pipeline", [pictures(client, images[:1])], outputs=[wanted])
    (word,) = answer.as_numpy("PROBABILITIES")[0]
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert word.decode().endswith(f":{expected[0]}:{words[expected[0]]}")
    assert answer.as_numpy("LABEL") is None


@pytest.mark.parametrize("client", CLIENTS)
def test_an_error_says_in_which_ensemble(client: ModuleType, sample_server: Any) -> None:
    before = counts(sample_server, "digits_pipeline")
    bad = tensor(client, "IMAGE", np.array([[b"GIF89a"]], object), "BYTES")
    with (
        connect(client, sample_server) as triton,
        pytest.raises(InferenceServerException) as caught,
    ):
        triton.infer("digits_pipeline", [bad])
    assert caught.value.message() == ("in ensemble 'digits_pipeline', the image is not a PNG file")
    after = counts(sample_server, "digits_pipeline")
    assert after["fail"] - before["fail"] == 1
    assert after["success"] == before["success"]


def test_an_ensemble_shows_itself_as_one(sample_server: Any) -> None:
    with httpclient.InferenceServerClient(sample_server.http) as triton:
        assert triton.is_model_ready("digits_pipeline")
        metadata = triton.get_model_metadata("digits_pipeline")
        config = triton.get_model_config("digits_pipeline")
    assert metadata["platform"] == "ensemble"
    assert [step["model_name"] for step in config["ensemble_scheduling"]["step"]] == [
        "digits_decode",
        "digits",
    ]
    assert config["instance_group"] == []
    assert config["model_transaction_policy"] == {"decoupled": False}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_model_asks_another_model(client: ModuleType, sample_server: Any) -> None:
    images, expected = held_out()
    before = counts(sample_server, "digits")
    with connect(client, sample_server) as triton:
        answer = triton.infer("bls_digits", [tensor(client, "PIXELS", images[:64], "FP32")])
    right = answer.as_numpy("LABEL")[:, 0] == expected[:64]
    assert right.mean() >= 0.95
    assert (answer.as_numpy("CONFIDENCE") > 0).all()
    assert counts(sample_server, "digits")["inferences"] - before["inferences"] == 64


def stream(server: Any, model: str, *inputs: Any) -> list[Any]:
    """Every response of one request on a stream, the empty final one left out."""
    answers: queue.Queue[Any] = queue.Queue()
    with grpcclient.InferenceServerClient(server.grpc) as triton:
        triton.start_stream(lambda result, error: answers.put(error or result))
        triton.async_stream_infer(model, list(inputs), enable_empty_final_response=True)
        found = []
        while True:
            answer = answers.get(timeout=WAIT_SECONDS)
            assert not isinstance(answer, Exception), answer
            response = answer.get_response()
            if response.outputs:
                found.append(answer)
            if response.parameters["triton_final_response"].bool_param:
                break
        triton.stop_stream()
    return found


def test_repeat_streams_one_response_per_element(sample_server: Any) -> None:
    values = np.arange(5, dtype=np.int32) * 11
    found = stream(
        sample_server,
        "repeat_int32",
        tensor(grpcclient, "IN", values, "INT32"),
        tensor(grpcclient, "DELAY", np.ones(5, np.uint32), "UINT32"),
        tensor(grpcclient, "WAIT", np.zeros(1, np.uint32), "UINT32"),
    )
    assert [one.as_numpy("OUT").item() for one in found] == values.tolist()
    assert [one.as_numpy("IDX").item() for one in found] == list(range(5))


@pytest.mark.parametrize("count", [0, 1, 300])
def test_square_streams_as_many_as_it_is_told(count: int, sample_server: Any) -> None:
    found = stream(
        sample_server,
        "square_int32",
        tensor(grpcclient, "IN", np.array([count], np.int32), "INT32"),
    )
    assert [one.as_numpy("OUT").item() for one in found] == [count] * count


def test_generate_stream_gives_every_response_an_event(sample_server: Any) -> None:
    body = {"IN": [4, 5, 6], "DELAY": [0, 0, 0], "WAIT": [0]}
    request = urllib.request.Request(
        f"http://{sample_server.http}/v2/models/repeat_int32/generate_stream",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = response.read().decode().split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.strip()]
    assert [(event["OUT"], event["IDX"]) for event in events] == [(4, 0), (5, 1), (6, 2)]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_decoupled_model_needs_a_stream(client: ModuleType, sample_server: Any) -> None:
    one = tensor(client, "IN", np.array([1], np.int32), "INT32")
    with (
        connect(client, sample_server) as triton,
        pytest.raises(InferenceServerException, match="decoupled transaction policy"),
    ):
        triton.infer("square_int32", [one])
