"""Backend, platform and file name: whichever is left out follows from the others."""

from __future__ import annotations

import pytest

from protocol.status import ServerError
from repo.pbtxt import parse_config
from repo.platforms import autofill, backend_of_platform


def _filled(text: str, *files: str, name: str = "m") -> tuple[str, str, str]:
    """(backend, platform, file name); a file ending in `/` is a directory."""
    entries = {file.removesuffix("/"): file.endswith("/") for file in files}
    config = autofill(parse_config(text, "x"), name, entries)
    return config.backend, config.platform, config.default_model_filename


@pytest.mark.parametrize(
    ("files", "filled"),
    [
        (["model.onnx"], ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        (["model.onnx/"], ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        (["model.plan"], ("tensorrt", "tensorrt_plan", "model.plan")),
        (["model.xml", "model.bin"], ("openvino", "", "model.xml")),
        (["model.pt"], ("pytorch", "pytorch_libtorch", "model.pt")),
        (["model.pt2"], ("pytorch", "torch_aoti", "model.pt2")),
        (["model.pt2", "model.pt"], ("pytorch", "pytorch_libtorch", "model.pt")),
        (["model.py"], ("python", "", "model.py")),
        (["model.py", "model.onnx"], ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        (["model.savedmodel/"], ("tensorflow", "tensorflow_savedmodel", "")),
        (["model.graphdef"], ("tensorflow", "tensorflow_graphdef", "")),
    ],
)
def test_files_tell_the_backend(files: list[str], filled: tuple[str, str, str]) -> None:
    assert _filled("", *files) == filled


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ('backend: "onnxruntime"', ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ('backend: "python"', ("python", "", "model.py")),
        ('backend: "pytorch"', ("pytorch", "pytorch_libtorch", "model.pt")),
        ('backend: "identity"', ("identity", "", "")),
        (
            'platform: "onnxruntime_onnx" default_model_filename: "a.onnx"',
            ("onnxruntime", "onnxruntime_onnx", "a.onnx"),
        ),
        ('platform: "pytorch_libtorch"', ("pytorch", "pytorch_libtorch", "")),
        ('platform: "torch_aoti"', ("pytorch", "torch_aoti", "model.pt2")),
        ('platform: "libtorch"', ("pytorch", "libtorch", "")),
        ('default_model_filename: "model.py"', ("python", "", "model.py")),
        ('default_model_filename: "model.pt2"', ("pytorch", "torch_aoti", "model.pt2")),
        (
            'backend: "pytorch" default_model_filename: "a.pt"',
            ("pytorch", "pytorch_libtorch", "a.pt"),
        ),
        ('platform: "foo"', ("", "foo", "")),
        ('platform: "ensemble"', ("", "ensemble", "")),
        ('backend: "python" platform: "ensemble"', ("python", "ensemble", "")),
    ],
)
def test_what_is_given_tells_the_rest(text: str, filled: tuple[str, str, str]) -> None:
    assert _filled(text) == filled


def test_a_directory_in_place_of_a_file_tells_nothing() -> None:
    assert _filled("", "model.plan/", "model.graphdef/", "model.py")[0] == "python"


def test_a_name_with_a_dot_names_its_backend() -> None:
    assert _filled("", name="a.identity.x") == ("identity.x", "", "model.identity.x")


def test_no_trace_of_a_backend_is_an_error() -> None:
    with pytest.raises(ServerError) as failure:
        _filled("", "notes.txt")

    assert failure.value.message == (
        "Invalid model name: Could not determine backend for model 'm' with no backend in model "
        "configuration. Expected model name of the form 'model.<backend_name>'."
    )


def test_a_model_is_named_like_its_directory() -> None:
    assert autofill(parse_config('backend: "b"', "x"), "dir", {}).name == "dir"

    with pytest.raises(ServerError) as failure:
        _filled('name: "b"', name="a")
    assert failure.value.message == (
        "unexpected directory name 'a' for model 'b', directory name must equal model name"
    )


def test_platforms_name_their_backend() -> None:
    assert backend_of_platform("onnxruntime_onnx") == "onnxruntime"
    assert backend_of_platform("foo") is None
    assert backend_of_platform("") is None
