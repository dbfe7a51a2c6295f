"""Writes `1/model.onnx` of `simple`: the sum and the difference of two INT32 vectors of 16.

Names, types and shapes are those of Triton's example model of the same name.

    python sample_repository/simple/make_model.py [--output MODEL.onnx]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
from onnx import TensorProto, helper

WIDTH = 16
# Old enough for every ONNX Runtime that the server accepts.
OPSET = 17
IR_VERSION = 8


def add_and_subtract() -> onnx.ModelProto:
    """OUTPUT0 = INPUT0 + INPUT1 and OUTPUT1 = INPUT0 - INPUT1, all INT32 [batch, 16]."""

    def vector(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", WIDTH])

    graph = helper.make_graph(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        "simple",
        [vector("INPUT0"), vector("INPUT1")],
        [vector("OUTPUT0"), vector("OUTPUT1")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="write the simple model")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "1" / "model.onnx")
    output: Path = parser.parse_args().output
    output.write_bytes(add_and_subtract().SerializeToString())
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
