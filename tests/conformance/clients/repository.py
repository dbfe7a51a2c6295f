"""Writes the model repository that the client drivers are run against.

All models are Python, so that the real Triton of bench/peers.py can serve them too: it is the
judge of the drivers. One model per datatype, and one per feature.
"""

from __future__ import annotations

from pathlib import Path

# Protocol name to configuration name, in the order of the configuration's enumeration.
DATATYPES = {
    "BOOL": "TYPE_BOOL",
    "UINT8": "TYPE_UINT8",
    "UINT16": "TYPE_UINT16",
    "UINT32": "TYPE_UINT32",
    "UINT64": "TYPE_UINT64",
    "INT8": "TYPE_INT8",
    "INT16": "TYPE_INT16",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "FP16": "TYPE_FP16",
    "FP32": "TYPE_FP32",
    "FP64": "TYPE_FP64",
    "BYTES": "TYPE_STRING",
    "BF16": "TYPE_BF16",
}

Tensors = tuple[tuple[str, str, str], ...]

HEAD = """\
import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


def array(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def answer(**outputs):
    tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


class TritonPythonModel:
"""

IDENTITY = """\
    def execute(self, requests):
        return [answer(OUTPUT0=array(request, "INPUT0")) for request in requests]
"""

# BF16 has no numpy type, so that the tensor is handed on without looking into it.
IDENTITY_BF16 = """\
    def execute(self, requests):
        responses = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, "INPUT0")
            output = pb_utils.Tensor.from_dlpack("OUTPUT0", tensor.to_dlpack())
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
        return responses
"""

ADD_AND_SUBTRACT = """\
    def execute(self, requests):
        responses = []
        for request in requests:
            left, right = array(request, "INPUT0"), array(request, "INPUT1")
            responses.append(answer(OUTPUT0=left + right, OUTPUT1=left - right))
        return responses
"""

# As Triton's example of the same name: value IN[i] after DELAY[i] ms, numbered by IDX.
REPEAT = """\
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            values, delays = array(request, "IN"), array(request, "DELAY")
            threading.Thread(target=self.send, args=(sender, values, delays)).start()

    def send(self, sender, values, delays):
        for index, (value, delay) in enumerate(zip(values.tolist(), delays.tolist())):
            time.sleep(delay / 1000)
            out = np.array([value], np.int32)
            sender.send(answer(OUT=out, IDX=np.array([index], np.uint32)))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

ACCUMULATE = """\
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            assert array(request, "READY").item(), "asked without a request"
            key = array(request, "CORRID").item()
            if array(request, "START").item():
                self.sums[key] = 0
            self.sums[key] += array(request, "INPUT").item()
            responses.append(answer(OUTPUT=np.full((1, 1), self.sums[key], np.int32)))
            if array(request, "END").item():
                del self.sums[key]
        return responses
"""

PARAMETERS = """\
    def execute(self, requests):
        responses = []
        for request in requests:
            found = np.array([request.parameters().encode()], object)
            responses.append(answer(OUTPUT0=found))
        return responses
"""

SLEEP = """\
    def execute(self, requests):
        responses = []
        for request in requests:
            time.sleep(array(request, "INPUT0").item())
            responses.append(answer(OUTPUT0=array(request, "INPUT0")))
        return responses
"""

REFUSE = """\
    def execute(self, requests):
        responses = []
        for request in requests:
            if array(request, "INPUT0").item() < 0:
                error = pb_utils.TritonError("negative", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(output_tensors=[], error=error))
            else:
                responses.append(answer(OUTPUT0=array(request, "INPUT0")))
        return responses
"""

SEQUENCE_CONTROLS = """
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  control_input [
    {
      name: "START"
      control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ]
    },
    {
      name: "END"
      control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ]
    },
    {
      name: "READY"
      control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ]
    },
    {
      name: "CORRID"
      control [ { kind: CONTROL_SEQUENCE_CORRID data_type: %s } ]
    }
  ]
}
"""
DECOUPLED = "\nmodel_transaction_policy { decoupled: true }\n"
LABELS = "cat\ndog\nowl\nfox\n"


def config(name: str, inputs: Tensors, outputs: Tensors, batch: int, instances: int) -> str:
    """The text of config.pbtxt for a Python model."""

    def block(kind: str, tensors: Tensors) -> str:
        entries = (
            f'  {{ name: "{tensor}" data_type: {datatype} dims: {dims} }}'
            for tensor, datatype, dims in tensors
        )
        return f"{kind} [\n" + ",\n".join(entries) + "\n]\n"

    return (
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: {batch}\n'
        + block("input", inputs)
        + block("output", outputs)
        + f"instance_group [ {{ kind: KIND_CPU count: {instances} }} ]\n"
    )


def write_model(folder: Path, text: str, code: str) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text)
    (folder / "1" / "model.py").write_text(HEAD + code)


def write_repository(folder: Path) -> None:
    """Writes every model the drivers ask for below `folder`, which must not exist yet."""

    def add(
        name: str,
        code: str,
        inputs: Tensors,
        outputs: Tensors,
        *,
        batch: int = 0,
        more: str = "",
        instances: int = 1,
    ) -> None:
        write_model(folder / name, config(name, inputs, outputs, batch, instances) + more, code)

    for datatype, kind in DATATYPES.items():
        code = IDENTITY_BF16 if datatype == "BF16" else IDENTITY
        table = ("INPUT0", kind, "[ -1, -1 ]"), ("OUTPUT0", kind, "[ -1, -1 ]")
        add(f"identity_{datatype.lower()}", code, table[:1], table[1:])

    vector = ("TYPE_INT32", "[ 16 ]")
    pair = (("INPUT0", *vector), ("INPUT1", *vector))
    results = (("OUTPUT0", *vector), ("OUTPUT1", *vector))
    add("simple", ADD_AND_SUBTRACT, pair, results, batch=8)

    scores = (("INPUT0", "TYPE_FP32", "[ 4 ]"),)
    labelled = (("OUTPUT0", "TYPE_FP32", '[ 4 ] label_filename: "labels.txt"'),)
    add("classes", IDENTITY, scores, labelled, batch=8)
    (folder / "classes" / "labels.txt").write_text(LABELS)

    repeat = (
        ("IN", "TYPE_INT32", "[ -1 ]"),
        ("DELAY", "TYPE_UINT32", "[ -1 ]"),
        ("WAIT", "TYPE_UINT32", "[ 1 ]"),
    )
    repeated = (("OUT", "TYPE_INT32", "[ 1 ]"), ("IDX", "TYPE_UINT32", "[ 1 ]"))
    add("repeat_int32", REPEAT, repeat, repeated, more=DECOUPLED)

    for name, kind in (("accumulate", "TYPE_UINT64"), ("accumulate_named", "TYPE_STRING")):
        value = (("INPUT", "TYPE_INT32", "[ 1 ]"),)
        total = (("OUTPUT", "TYPE_INT32", "[ 1 ]"),)
        # Two instances of one slot each, so that two sequences can be open at a time.
        add(name, ACCUMULATE, value, total, batch=1, more=SEQUENCE_CONTROLS % kind, instances=2)

    number = (("INPUT0", "TYPE_FP32", "[ 1 ]"),)
    same = (("OUTPUT0", "TYPE_FP32", "[ 1 ]"),)
    add("sleep", SLEEP, number, same)
    add("refuse", REFUSE, number, same)
    add("parameters", PARAMETERS, number, (("OUTPUT0", "TYPE_STRING", "[ 1 ]"),))
    add("loadable", IDENTITY, number, same)
