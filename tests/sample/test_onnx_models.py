"""The committed ONNX files of sample_repository, run by ONNX Runtime itself, without a server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

SAMPLES = Path(__file__).parents[2] / "sample_repository"


def script(path: Path) -> ModuleType:
    """The module at `path`, imported under a name of its own."""
    name = f"sample_{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def session(model: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = SAMPLES / model / "1" / "model.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def held_out() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The images and labels that training never saw."""
    _, _, images, labels = script(SAMPLES / "digits" / "train.py").split_digits()
    return images, labels


def test_digits_reads_at_least_97_of_100_held_out_images(
    held_out: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> None:
    images, labels = held_out
    (found,) = session("digits").run(["LABEL"], {"INPUT": images})

    assert found.shape == (360, 1)
    assert (found[:, 0] == labels).mean() >= 0.97


def test_digits_takes_raw_pixels_and_gives_probabilities(
    held_out: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> None:
    images, _ = held_out
    probabilities, label = session("digits").run(["PROBABILITIES", "LABEL"], {"INPUT": images[:64]})

    assert images.max() == 16.0
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (64, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert label.dtype == np.int64
    np.testing.assert_array_equal(label[:, 0], probabilities.argmax(axis=1))


def test_digits_gives_one_image_the_same_answer_alone_as_in_a_batch(
    held_out: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> None:
    images, _ = held_out
    digits = session("digits")
    (together,) = digits.run(["PROBABILITIES"], {"INPUT": images[:8]})
    (alone,) = digits.run(["PROBABILITIES"], {"INPUT": images[3:4]})

    np.testing.assert_allclose(alone[0], together[3], atol=1e-5)


def test_digits_has_a_label_for_every_class() -> None:
    labels = (SAMPLES / "digits" / "labels.txt").read_text().splitlines()

    assert labels[0] == "zero"
    assert labels[9] == "nine"
    assert len(labels) == 10


def test_the_training_images_and_the_held_out_ones_do_not_overlap() -> None:
    train_images, train_labels, held_images, held_labels = script(
        SAMPLES / "digits" / "train.py"
    ).split_digits()

    assert len(train_labels) == 1437
    assert len(held_labels) == 360
    assert {image.tobytes() for image in train_images}.isdisjoint(
        image.tobytes() for image in held_images
    )


def test_moved_copies_shift_by_one_pixel_and_let_blank_ones_in() -> None:
    train = script(SAMPLES / "digits" / "train.py")
    image = np.arange(1, 65, dtype=np.float32).reshape(1, 64)
    copies = train.moved_copies(image).reshape(-1, 8, 8)
    original = image.reshape(8, 8)

    assert len(copies) == 5
    np.testing.assert_array_equal(copies[0], original)
    np.testing.assert_array_equal(copies[1][:, :7], original[:, 1:])
    assert not copies[1][:, 7].any()
    np.testing.assert_array_equal(copies[4][1:], original[:7])
    assert not copies[4][0].any()


def test_simple_adds_and_subtracts() -> None:
    left = np.arange(32, dtype=np.int32).reshape(2, 16)
    right = np.full((2, 16), 100, np.int32)
    total, difference = session("simple").run(
        ["OUTPUT0", "OUTPUT1"], {"INPUT0": left, "INPUT1": right}
    )

    assert total.dtype == np.int32
    np.testing.assert_array_equal(total, left + right)
    np.testing.assert_array_equal(difference, left - right)


def test_the_script_of_simple_still_writes_the_committed_file() -> None:
    written = script(SAMPLES / "simple" / "make_model.py").add_and_subtract()

    assert written == onnx.load(SAMPLES / "simple" / "1" / "model.onnx")
