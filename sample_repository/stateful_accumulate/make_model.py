"""Writes `1/model.onnx` of `stateful_accumulate`: a running sum over each sequence.

python stateful_accumulate/make_model.py [--output MODEL.onnx]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
from onnx import TensorProto, helper

# Old enough for every ONNX Runtime that the server accepts.
OPSET = 17
IR_VERSION = 8


def running_sum() -> onnx.ModelProto:
    """OUTPUT = OUTPUT_STATE = INPUT + INPUT_STATE, without the state where START is 1.

    All INT32 [batch, 1].
    """

    def number(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", 1])

    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["one", "START"], ["goes_on"]),
            helper.make_node("Mul", ["INPUT_STATE", "goes_on"], ["before"]),
            helper.make_node("Add", ["INPUT", "before"], ["OUTPUT"]),
            helper.make_node("Identity", ["OUTPUT"], ["OUTPUT_STATE"]),
        ],
        "stateful_accumulate",
        [number("INPUT"), number("INPUT_STATE"), number("START")],
        [number("OUTPUT"), number("OUTPUT_STATE")],
        [helper.make_tensor("one", TensorProto.INT32, [1, 1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="write the stateful_accumulate model")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "1" / "model.onnx")
    output: Path = parser.parse_args().output
    output.write_bytes(running_sum().SerializeToString())
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
