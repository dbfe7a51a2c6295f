"""Writes `1/model.pt` of `digits_torch`: the trained network of `digits` as TorchScript.

The weights are those of the ONNX file, so that both models give the same answers. Needs PyTorch
(written with 2.13.0) and onnx.

    python digits_torch/convert.py DIGITS/1/model.onnx [--output MODEL.pt]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper

LAYERS = 3


class Digits(torch.nn.Module):
    """Raw pixels FP32 [batch, 64], 0..16, to probabilities FP32 [batch, 10]."""

    def __init__(self, onnx_file: Path) -> None:
        super().__init__()
        found = {
            each.name: torch.tensor(numpy_helper.to_array(each).copy())
            for each in onnx.load(onnx_file).graph.initializer
        }
        self.register_buffer("pixel_scale", found["pixel_scale"])
        parts: list[torch.nn.Module] = []
        for layer in range(LAYERS):
            weights, bias = found[f"weights_{layer}"], found[f"bias_{layer}"]
            linear = torch.nn.Linear(*weights.shape)
            linear.weight.data.copy_(weights.T)
            linear.bias.data.copy_(bias)
            parts += [linear, torch.nn.ReLU()]
        # The last layer's sums go to the softmax as they are.
        self.layers = torch.nn.Sequential(*parts[:-1], torch.nn.Softmax(dim=1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = self.layers(pixels * self.pixel_scale)
        return probabilities


def main() -> None:
    parser = argparse.ArgumentParser(description="write the digits_torch model")
    parser.add_argument("digits", type=Path, help="model.onnx of digits")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "1" / "model.pt")
    options = parser.parse_args()
    torch.jit.save(
        torch.jit.script(Digits(options.digits).eval().requires_grad_(False)), options.output
    )
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
