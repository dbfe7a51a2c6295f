"""Which refusals come from polling, and which from making a version."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.status import ServerError
from repo.instance_groups import DeviceTable
from repo.pbtxt import parse_config
from repo.preparation import LoadRefused, ModelFiles, prepare

IO = """
backend: "python"
input { name: "IN" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] }
"""


def refusal(text: str, *versions: str, completes: bool = True) -> ServerError:
    with pytest.raises(ServerError) as caught:
        prepare(
            parse_config(text, "config.pbtxt"),
            ModelFiles(Path("m"), versions),
            devices=DeviceTable(),
            complete=(lambda config, _: config) if completes else None,
        )
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        IO.replace("dims: [ 1 ]", "dims: [ 0 ]", 1),
        IO + "instance_group { kind: KIND_GPU }",
        IO.replace('"OUT"', '"OUT" label_filename: "nowhere.txt"'),
    ],
)
def test_tensors_instances_and_labels_are_judged_for_a_version(text: str) -> None:
    found = refusal(text, "1", "2")
    assert isinstance(found, LoadRefused)
    assert found.version == 2


def test_a_model_without_versions_is_refused_as_a_whole() -> None:
    found = refusal(IO)
    assert isinstance(found, LoadRefused)
    assert found.version is None


@pytest.mark.parametrize("text", [IO + "max_batch_size: -1", IO + 'platform: "onnxruntime_onnx"'])
def test_what_has_nothing_to_do_with_files_is_judged_while_polling(text: str) -> None:
    assert not isinstance(refusal(text, "1"), LoadRefused)


def test_without_completion_tensors_are_judged_while_polling() -> None:
    found = refusal(IO.replace("dims: [ 1 ]", "dims: [ 0 ]", 1), "1", completes=False)
    assert not isinstance(found, LoadRefused)
