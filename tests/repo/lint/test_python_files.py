"""What is told of a model.py, and what is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from repo.lint.python_files import MAX_SOURCE_BYTES, python_problems

EXECUTE = "    def execute(self, requests): ...\n"


@pytest.mark.parametrize("source", [
    f"class TritonPythonModel:\n{EXECUTE}",
    "class TritonPythonModel:\n    async def execute(self, requests): ...\n",
    "from beside import TritonPythonModel\n",
    "from beside import Model as TritonPythonModel\n",
    "from beside import *\n",
    f"class Model:\n{EXECUTE}TritonPythonModel = Model\n",
    "class TritonPythonModel(Base):\n    pass\n",
    "@decorated\nclass TritonPythonModel:\n    pass\n",
    "class TritonPythonModel:\n    execute = run\n",
    "class TritonPythonModel:\n    if True:\n        def execute(self, requests): ...\n",
    f"try:\n    import x\nexcept ImportError:\n    class TritonPythonModel:\n    {EXECUTE}",
    "globals()['TritonPythonModel'] = object\n",
    "# " + "x" * MAX_SOURCE_BYTES,
])  # fmt: skip
def test_what_may_be_a_model_is_believed(source: str, tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(source)
    assert list(python_problems(path)) == []


@pytest.mark.parametrize(("source", "text", "place"), [
    ("", "model.py does not define class TritonPythonModel", (0, 0)),
    ("class A:\n    pass\n", "model.py does not define class TritonPythonModel", (0, 0)),
    ("x = 1\nclass TritonPythonModel:\n    '''A'''\n    size = 1\n", "not implement", (2, 1)),
    ("x = (\n", "was never closed", (1, 5)),
    ("x = '\0'", "null bytes", (0, 0)),
])  # fmt: skip
def test_what_cannot_be_one(source: str, text: str, place: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(source)
    (problem,) = python_problems(path)
    assert text in problem.text
    assert (problem.line, problem.column) == place or "null" in text


def test_its_name_and_place(tmp_path: Path) -> None:
    (named,) = python_problems(tmp_path / "model.txt")
    assert named.text == "Model name must end with '.py'. Model name is \"model.txt\"."
    (missing,) = python_problems(tmp_path / "model.py")
    assert missing.text == f"Python model file not found in '{tmp_path / 'model.py'}'"
