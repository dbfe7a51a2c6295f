"""Workers forked from a zygote: as good as fresh ones, and no longer-lived."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from actors.processes.ports import LogLevel
from actors.processes.zygote import Zygote
from repo.backends.python.environment import own_environment
from repo.backends.python.launch import WorkerSpec
from tests.actors.process_rig import Rig, model_spec, request, running

WHO = """
def execute(self, requests):
    if -1 in value(requests[0]):
        os.kill(os.getpid(), signal.SIGKILL)
    fds = sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in range(30)
                 if os.path.exists(f"/proc/self/fd/{fd}"))
    facts = (os.getpid(), os.getppid(), np.random.random(), fds,
             signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
             __name__, pb_utils.get_model_dir())
    return [answer(np.array([repr(facts)], object)) for r in requests]
def finalize(self):
    print("finalized")
"""


class Hatchery:
    """A running zygote and what it logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[LogLevel, str]] = []
        self.zygote = Zygote(log=lambda level, line: self.lines.append((level, line)))

    async def ready(self) -> None:
        with trio.fail_after(20):
            while self.zygote._socket is None:  # noqa: ASYNC110  # only tests want to know
                await trio.sleep(0.005)


@asynccontextmanager
async def hatching() -> AsyncIterator[Hatchery]:
    hatchery = Hatchery()
    async with trio.open_nursery() as nursery:
        await nursery.start(hatchery.zygote.run)
        await hatchery.ready()
        yield hatchery
        nursery.cancel_scope.cancel()


def own(spec: WorkerSpec) -> WorkerSpec:
    """The same in exactly the server's environment, which pytest changes with every test."""
    return replace(spec, environment=own_environment().variables)


async def facts(rig: Rig) -> tuple[int, int, float, list[str], bool, str, str]:
    answer = await rig.infer([1])
    assert isinstance(answer, list)
    found: tuple[int, int, float, list[str], bool, str, str] = eval(answer[0])
    return found


@pytest.fixture(autouse=True)
def same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)


async def test_forked_workers_are_like_fresh_ones(tmp_path: Path) -> None:
    async with hatching() as hatchery:
        starter = hatchery.zygote
        one, two = (own(model_spec(tmp_path / name, WHO)) for name in ("a", "b"))
        async with running(one, starter=starter) as first, running(two, starter=starter) as second:
            found = [await facts(first), await facts(second)]
            assert starter.fork_count == 2
        assert ("INFO", "finalized") in first.lines
        assert ("INFO", "finalized") in second.lines
    pids, parents, numbers, descriptors, handlers, names, directories = zip(*found, strict=True)
    assert len(set(pids)) == len(set(numbers)) == 2
    assert len(set(parents)) == 1
    assert descriptors == (["/dev/null", "/memfd", "pipe", "pipe", "socket", "socket"],) * 2
    assert handlers == (True, True)
    assert names == ("1.model", "1.model")
    assert directories == (str(tmp_path / "a/m/1"), str(tmp_path / "b/m/1"))
    for pid in (*pids, *parents):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_forked_worker_that_dies_is_replaced_by_another(tmp_path: Path) -> None:
    async with hatching() as hatchery:
        async with running(own(model_spec(tmp_path, WHO)), starter=hatchery.zygote) as rig:
            before = await facts(rig)
            assert "is not healthy" in str(await rig.infer([-1]))
            after = await facts(rig)
        assert hatchery.zygote.fork_count == 2
    assert before[0] != after[0]
    assert before[1] == after[1]


async def test_another_environment_needs_a_fresh_interpreter(tmp_path: Path) -> None:
    async with hatching() as hatchery:
        spec = own(model_spec(tmp_path, WHO))
        spec = replace(spec, environment={**spec.environment, "MORE": "1"})
        async with running(spec, starter=hatchery.zygote) as rig:
            assert (await facts(rig))[1] == os.getpid()
        assert hatchery.zygote.fork_count == 0


async def test_workers_outlive_their_zygote_and_start_without_it(tmp_path: Path) -> None:
    async with hatching() as hatchery:
        async with running(own(model_spec(tmp_path, WHO)), starter=hatchery.zygote) as rig:
            before = await facts(rig)
            os.kill(before[1], signal.SIGKILL)
            with trio.fail_after(10):
                while hatchery.zygote._socket is not None:  # noqa: ASYNC110  # only tests ask
                    await trio.sleep(0.005)
            assert (await facts(rig))[0] == before[0]
            assert "is not healthy" in str(await rig.infer([-1]))
            assert (await facts(rig))[1] == os.getpid()
        assert ("WARNING", "the zygote has died: workers start without it") in hatchery.lines


async def test_forked_workers_end_with_the_server(tmp_path: Path) -> None:
    """Even one whose model keeps the interpreter's lock for ever."""
    script = f"""
import os, trio
from pathlib import Path
from tests.actors.process_rig import model_spec, running
from tests.actors.test_process_zygote import hatching, own
BODY = '''
import ctypes
from pathlib import Path
def execute(self, requests):
    busy = self.Path(pb_utils.get_model_dir(), "busy")
    busy.write_text(f"{{os.getpid()}} {{os.getppid()}}")
    self.ctypes.PyDLL(None).sleep(3600)
'''
async def main():
    spec = own(model_spec(Path({str(tmp_path)!r}), BODY))
    async with hatching() as hatchery, running(spec, starter=hatchery.zygote) as rig:
        await rig.infer([1])
trio.run(main)
"""
    server = await trio.lowlevel.open_process(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
    )
    busy = tmp_path / "m" / "1" / "busy"
    with trio.fail_after(20):
        while not (busy.exists() and busy.read_text()):  # noqa: ASYNC110  # another process
            await trio.sleep(0.005)
        pids = [int(pid) for pid in busy.read_text().split()]
        server.kill()
        await server.wait()
        while any(map(_is_running, pids)):  # noqa: ASYNC110  # another process
            await trio.sleep(0.005)


def _is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie that its new parent has not reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_large_tensors_and_a_stop_in_mid_air(tmp_path: Path) -> None:
    body = "def execute(self, requests): return [answer(value(r)) for r in requests]"
    async with hatching() as hatchery:
        async with running(own(model_spec(tmp_path, body)), starter=hatchery.zygote) as rig:
            (outcome,) = await rig.outcomes(request(list(range(200_000))))
            assert outcome is not None
        with trio.move_on_after(0.01):
            async with running(own(model_spec(tmp_path, body)), starter=hatchery.zygote):
                await trio.sleep_forever()
