"""Names of files in a configuration lead nowhere but down."""

from __future__ import annotations

import pytest

from protocol.status import ServerError, StatusCode
from repo.file_names import file_name_refusals, stays_inside
from repo.model_config import ModelConfig
from repo.refusals import raise_first


@pytest.mark.parametrize(("name", "inside"), [
    ("", True), ("model.onnx", True), ("deep/er/model.onnx", True), ("a..b", True), ("...", True),
    ("./model.onnx", True), ("../model.onnx", False), ("a/../../x", False), ("a/../b", False),
    ("/etc/passwd", False), ("..", False), ("a\0b", False),
])  # fmt: skip
def test_what_stays_inside(name: str, inside: bool) -> None:
    assert stays_inside(name) == inside


def test_the_setting_is_named() -> None:
    config = ModelConfig(name="m", default_model_filename="../x")
    with pytest.raises(ServerError) as caught:
        raise_first(file_name_refusals(config))
    assert caught.value.status is StatusCode.INVALID_ARG
    assert caught.value.message == (
        "default_model_filename '../x' of model 'm' is outside the version directory"
    )
    with pytest.raises(ServerError, match=r"cc_model_filenames\['7.0'\] '/x' of model 'm' is out"):
        raise_first(file_name_refusals(ModelConfig(name="m", cc_model_filenames={"7.0": "/x"})))
