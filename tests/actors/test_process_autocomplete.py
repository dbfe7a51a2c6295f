"""A model.py that completes its own configuration, in a process that is then thrown away."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio

from actors.processes.autocomplete import auto_complete
from actors.processes.ports import LogLevel
from protocol.status import ServerError
from repo.backends.python.launch import WorkerSpec
from tests.actors.process_rig import model_spec


async def completed(spec: WorkerSpec, lines: list[tuple[LogLevel, str]]) -> str | None:
    def log(level: LogLevel, message: str) -> None:
        lines.append((level, message))

    with trio.fail_after(20):
        return await auto_complete(lambda: spec, log=log)


async def test_a_model_completes_its_configuration(tmp_path: Path) -> None:
    body = """
    @staticmethod
    def auto_complete_config(config):
        print("pid", os.getpid(), pb_utils.get_model_dir())
        config.set_max_batch_size(8)
        config.add_input({"name": "A", "data_type": "TYPE_FP32", "dims": [4]})
        return config
    def initialize(self, args):
        print("initialized")
    """
    lines: list[tuple[LogLevel, str]] = []
    found = await completed(model_spec(tmp_path, body, auto_complete=1), lines)
    assert found is not None
    assert json.loads(found) == {
        "name": "m",
        "max_batch_size": 8,
        "input": [{"name": "A", "data_type": "TYPE_FP32", "dims": [4]}],
    }
    ((_, line),) = lines
    _, pid, directory = line.split()
    assert directory == str(tmp_path / "m" / "1")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


async def test_a_model_may_have_nothing_to_say(tmp_path: Path) -> None:
    assert await completed(model_spec(tmp_path, "pass", auto_complete=1), []) is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            "return None",
            (
                "auto_complete_config function in model 'm' must return a valid pb.ModelConfig "
                "object."
            ),
        ),
        ("config.set_max_batch_size(-1)", "ValueError: configuration specified max_batch_size 0"),
        ("os._exit(1)", "Stub process 'm_0_0' is not healthy."),
    ],
)
async def test_a_completion_may_fail(tmp_path: Path, body: str, text: str) -> None:
    source = f"@classmethod\ndef auto_complete_config(cls, config): {body}"
    with pytest.raises(ServerError) as caught:
        await completed(model_spec(tmp_path, source, auto_complete=1), [])
    assert caught.value.message.startswith(text)
