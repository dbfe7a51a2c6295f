"""Trains the `digits` model on scikit-learn's handwritten digits and writes `1/model.onnx`.

Data: `sklearn.datasets.load_digits`, 1797 images of 8 x 8 pixels, values 0..16, part of
scikit-learn itself (nothing is downloaded). A fifth of them, 360 images, stratified by digit and
drawn with the fixed seed `SPLIT_SEED`, is held out: training never sees those. Network shape and
weight decay were chosen on a validation part of the other four fifths, not on the held-out ones.

Result: 98.3 % of the held-out images (354 of 360) are read correctly. `tests/sample` checks
the model that is in the repository against the same held-out images.

Every random draw is seeded, so that a second run writes the same network, up to the rounding of
the machine's linear algebra library. It takes a few seconds.

    python sample_repository/digits/train.py [--output MODEL.onnx]
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

SPLIT_SEED = 1797
TRAINING_SEED = 0
HELD_OUT_SHARE = 0.2
PIXEL_MAX = 16.0
SIDE = 8
HIDDEN_SIZES = (256, 128)
WEIGHT_DECAY = 0.1
EPOCHS = 40
# Each training image is also shown moved by one pixel, since 1437 images alone teach too little.
MOVES = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
# Old enough for every ONNX Runtime that the server accepts.
OPSET = 17
IR_VERSION = 8


def split_digits() -> tuple[FloatArray, IntArray, FloatArray, IntArray]:
    """Training images [n, 64] and labels [n], then the held-out ones; pixels are 0..16."""
    digits = load_digits()
    train_images, held_images, train_labels, held_labels = train_test_split(
        digits.data.astype(np.float32),
        digits.target.astype(np.int64),
        test_size=HELD_OUT_SHARE,
        random_state=SPLIT_SEED,
        stratify=digits.target,
    )
    return train_images, train_labels, held_images, held_labels


def moved_copies(images: FloatArray) -> FloatArray:
    """`images` [n, 64] once per entry of `MOVES`, blank pixels coming in at the edge."""
    padded = np.pad(images.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
    copies = [
        padded[:, 1 + down : 1 + down + SIDE, 1 + right : 1 + right + SIDE] for down, right in MOVES
    ]
    return np.concatenate(copies).reshape(-1, SIDE * SIDE)


def train(images: FloatArray, labels: IntArray) -> MLPClassifier:
    """A network fitted to the scaled images and their moved copies."""
    network = MLPClassifier(
        HIDDEN_SIZES,
        alpha=WEIGHT_DECAY,
        batch_size=128,
        max_iter=EPOCHS,
        n_iter_no_change=EPOCHS,
        random_state=TRAINING_SEED,
    )
    with warnings.catch_warnings():
        # The number of epochs is fixed on purpose, so it always "has not converged yet".
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(moved_copies(images) / PIXEL_MAX, np.tile(labels, len(MOVES)))
    return network


def as_onnx(network: MLPClassifier) -> onnx.ModelProto:
    """The network as a graph from raw pixels to PROBABILITIES [n, 10] and LABEL [n, 1]."""
    constants = [numpy_helper.from_array(np.array(1 / PIXEL_MAX, np.float32), "pixel_scale")]
    nodes = [helper.make_node("Mul", ["INPUT", "pixel_scale"], ["layer_0"])]
    last = len(network.coefs_) - 1
    for layer, (weights, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        constants += [
            numpy_helper.from_array(weights.astype(np.float32), f"weights_{layer}"),
            numpy_helper.from_array(bias.astype(np.float32), f"bias_{layer}"),
        ]
        result = "logits" if layer == last else f"sum_{layer}"
        operands = [f"layer_{layer}", f"weights_{layer}", f"bias_{layer}"]
        nodes.append(helper.make_node("Gemm", operands, [result]))
        if layer != last:
            nodes.append(helper.make_node("Relu", [result], [f"layer_{layer + 1}"]))
    nodes += [
        helper.make_node("Softmax", ["logits"], ["PROBABILITIES"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["LABEL"], axis=1, keepdims=1),
    ]
    pixels, classes = SIDE * SIDE, len(network.classes_)
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("INPUT", TensorProto.FLOAT, ["batch", pixels])],
        [
            helper.make_tensor_value_info("PROBABILITIES", TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("LABEL", TensorProto.INT64, ["batch", 1]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="train the digits model")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "1" / "model.onnx")
    output: Path = parser.parse_args().output
    train_images, train_labels, held_images, held_labels = split_digits()
    network = train(train_images, train_labels)
    right = int((network.predict(held_images / PIXEL_MAX) == held_labels).sum())
    output.write_bytes(as_onnx(network).SerializeToString())
    print(f"{right} of {len(held_labels)} held-out images right ({right / len(held_labels):.1%})")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
