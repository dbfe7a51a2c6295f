"""An ONNX model of ResNet-18's shape: the same layers and sizes, random weights from a fixed seed.

Owns the graph and nothing else. Batch normalisation is folded into the convolutions, as exporters
for inference do it. 11.7 million parameters, 47 MB; images are FP32 [batch, 3, 224, 224], the
outputs FP32 [batch, 1000].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 18
STEM_CHANNELS = 64
STAGES = (64, 128, 256, 512)
BLOCKS_PER_STAGE = 2
CLASSES = 1000
OPSET = 17


class _Graph:
    """Nodes and weights, as they are added; every layer's output has its layer's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._chance = np.random.default_rng(SEED)

    def _weight(self, name: str, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) or 1
        values = self._chance.standard_normal(shape, np.float32) / np.sqrt(np.float32(fan_in))
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, name: str, inputs: list[str], **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def convolution(  # a layer has these sizes
        self, name: str, source: str, channels: int, of: int, *, size: int, stride: int = 1
    ) -> str:
        weights = self._weight(f"{name}.weight", of, channels, size, size)
        bias = self._weight(f"{name}.bias", of)
        return self.add(
            "Conv",
            name,
            [source, weights, bias],
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[size // 2] * 4,
        )

    def block(self, name: str, source: str, channels: int, of: int) -> str:
        """Two convolutions and a way around them; the first stride of a stage halves the image."""
        stride = 1 if channels == of else 2
        first = self.convolution(f"{name}.1", source, channels, of, size=3, stride=stride)
        second = self.convolution(f"{name}.2", self.relu(first), of, of, size=3)
        around = source
        if channels != of:
            around = self.convolution(f"{name}.0", source, channels, of, size=1, stride=stride)
        return self.relu(self.add("Add", f"{name}.sum", [second, around]))

    def relu(self, source: str) -> str:
        return self.add("Relu", f"{source}.relu", [source])

    def linear(self, name: str, source: str, inputs: int, outputs: int) -> str:
        weights = self._weight(f"{name}.weight", inputs, outputs)
        bias = self._weight(f"{name}.bias", outputs)
        return self.add("Gemm", name, [source, weights, bias])


def write(path: Path) -> None:
    """Write the model to `path`."""
    graph = _Graph()
    stem = graph.relu(graph.convolution("stem", "INPUT", 3, STEM_CHANNELS, size=7, stride=2))
    value = graph.add(
        "MaxPool", "pool", [stem], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    )
    channels = STEM_CHANNELS
    for number, of in enumerate(STAGES):
        for block in range(BLOCKS_PER_STAGE):
            value = graph.block(f"stage{number}.{block}", value, channels, of)
            channels = of
    value = graph.add("GlobalAveragePool", "average", [value])
    value = graph.add("Flatten", "flat", [value])
    value = graph.linear("scores", value, channels, CLASSES)
    graph.add("Identity", "OUTPUT", [value])
    image = ["batch", 3, 224, 224]
    proto = helper.make_graph(
        graph.nodes,
        "resnet18",
        [helper.make_tensor_value_info("INPUT", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("OUTPUT", TensorProto.FLOAT, ["batch", CLASSES])],
        graph.weights,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
