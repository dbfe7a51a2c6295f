"""Workers that die: who fails, what comes after, and that nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from actors.policy.bisection import DEATH_LIMIT
from actors.readiness import current_readiness
from protocol.status import ServerError
from tests.actors.process_rig import Client, Rig, model_spec, request, running

NOT_HEALTHY = "Stub process 'm_0_0' is not healthy."
FAILED = f"Failed to process the request(s) for model instance 'm_0_0', message: {NOT_HEALTHY}"

# IN: -1 kills the worker, -2 waits for the file `go`, anything else is echoed.
FRAGILE = """
def execute(self, requests):
    for r in requests:
        if -1 in value(r):
            os.kill(os.getpid(), signal.SIGKILL)
        while -2 in value(r) and not os.path.exists(os.path.join(pb_utils.get_model_dir(), "go")):
            time.sleep(0.001)
    return [answer(value(r)) for r in requests]
"""


def pid_of(rig: Rig) -> int:
    worker = rig.executor._worker
    assert worker is not None
    return worker.pid


def shared_segments() -> int:
    """Segments that this process has mapped; they have no name in /dev/shm, nor anywhere."""
    return Path("/proc/self/maps").read_text().count("memfd:troupe ")


def descriptor_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_death_fails_the_batch_and_the_next_request_succeeds(tmp_path: Path) -> None:
    """All of it, where the model must not be given a request twice."""
    spec = replace(model_spec(tmp_path, FRAGILE), bisects_poison=False)
    async with running(spec) as rig:
        assert await rig.run(request([1]), request([-1])) == [FAILED, FAILED]
        assert not await rig.executor.is_ready()
        assert await rig.infer([2]) == [2]
        assert await rig.executor.is_ready()
        assert rig.executor.restart_count == 1
        await rig.logged("the worker has died")


async def test_a_batch_still_in_the_socket_goes_to_the_next_worker(tmp_path: Path) -> None:
    answers: dict[int, object] = {}
    async with running(model_spec(tmp_path, FRAGILE)) as rig:

        async def ask(number: int) -> None:
            answers[number] = await rig.infer([number])

        async with trio.open_nursery() as nursery:
            for number in (-2, 5):
                nursery.start_soon(ask, number)
                await trio.testing.wait_all_tasks_blocked(0.02)
            os.kill(pid_of(rig), signal.SIGKILL)
    assert answers == {-2: FAILED, 5: [5]}


async def test_a_worker_killed_while_idle_is_replaced_unasked(tmp_path: Path) -> None:
    """And nobody notices: a request that it could not have begun goes to its successor."""
    async with running(model_spec(tmp_path, FRAGILE)) as rig:
        assert await rig.infer([1]) == [1]
        before = pid_of(rig)
        os.kill(before, signal.SIGKILL)
        assert await rig.infer([2]) == [2]
        assert pid_of(rig) != before


async def test_a_worker_that_keeps_dying_is_replaced_ever_more_slowly(tmp_path: Path) -> None:
    async with running(model_spec(tmp_path, FRAGILE)) as rig:
        assert await rig.infer([-1]) == FAILED
        assert await rig.infer([-1]) == FAILED  # by the one immediate replacement
        with pytest.raises(ServerError, match="is not healthy"):
            await rig.infer([1])  # now there is a pause, and nobody waits for its end
        await rig.ready()
        assert await rig.infer([1]) == [1]


async def test_a_model_that_no_longer_loads_fails_requests_until_it_does(tmp_path: Path) -> None:
    spec = model_spec(tmp_path, FRAGILE)
    path = tmp_path / "m" / "1" / "model.py"
    good = path.read_text()
    async with running(spec) as rig:
        path.write_text("raise ImportError('half copied')")
        assert await rig.infer([-1]) == FAILED
        with pytest.raises(ServerError, match="is not healthy"):
            await rig.infer([1])
        await rig.logged("does not load: ImportError: half copied")
        path.write_text(good)
        await rig.ready()
        assert await rig.infer([1]) == [1]


@pytest.mark.parametrize("poisoned", [0, 5, 7])
async def test_a_poisoned_request_is_found_by_halving_its_batch(
    tmp_path: Path, poisoned: int
) -> None:
    """Wherever it is, although no worker may answer anything on the way to it."""
    async with running(model_spec(tmp_path, FRAGILE)) as rig:
        assert await rig.infer([0]) == [0]
        batch = [request([-1 if n == poisoned else n], id=f"r{n}") for n in range(8)]
        outcomes = await rig.run(*batch)
        assert outcomes == [FAILED if n == poisoned else [n] for n in range(8)]
        await rig.logged(f"request 'r{poisoned}' kills the worker that is given it alone")
        assert await rig.infer([1]) == [1]
        assert rig.executor.restart_count == 4  # 8, 4, 2, 1 requests


async def test_the_batch_behind_a_poisoned_one_is_not_given_up(tmp_path: Path) -> None:
    """It may move with every death on the way, although no worker has seen it."""
    outcomes: dict[str, object] = {}
    async with running(model_spec(tmp_path, FRAGILE)) as rig:

        async def ask(name: str, values: list[int]) -> None:
            outcomes[name] = await rig.run(*[request([value]) for value in values])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first", [*range(2, 33), -1])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, "second", [2, 3])
    assert outcomes == {"first": [*([n] for n in range(2, 33)), FAILED], "second": [[2], [3]]}


async def test_the_search_for_poison_has_an_end(tmp_path: Path) -> None:
    """And nothing is executed more often than the limit says."""
    body = """
    def execute(self, requests):
        print(*[value(r)[0] for r in requests], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    async with running(model_spec(tmp_path, body)) as rig:
        assert await rig.run(*[request([n]) for n in range(16)]) == [FAILED] * 16
        executed = [int(number) for line in rig.said() for number in line.split()]
    assert len(rig.said()) <= DEATH_LIMIT
    assert max(executed.count(number) for number in range(16)) == 5  # 16, 8, 4, 2, 1


async def test_a_request_that_nobody_waits_for_is_not_run_again(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        print(*[value(r)[0] for r in requests], flush=True)
        if len(requests) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return [answer(value(r)) for r in requests]
    """
    async with running(model_spec(tmp_path, body)) as rig:
        outcomes = await rig.run(request([1]), request([2], Client(cancelled=True)))
        assert outcomes == [[1], FAILED]
    assert rig.said() == ["1 2", "1"]


async def test_a_death_ends_late_requests_behind_what_they_were_sent(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        for r in requests:
            sender = r.get_response_sender()
            sender.send(answer(value(r)))
            if -1 in value(r):
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(60, lambda s=sender: None).start()
    """
    clients = [Client(), Client(), Client()]
    async with running(model_spec(tmp_path, body, decoupled=1)) as rig:
        assert await rig.run(request([1], clients[0])) == [None]
        assert await rig.run(request([2], clients[1]), request([-1], clients[2])) == [None, None]
        for client in clients:
            with trio.fail_after(10):
                await client.finished.wait()
    assert [client.values() for client in clients] == [[[1], FAILED], [[2], FAILED], [[-1], FAILED]]


async def test_nothing_is_left_behind_by_many_deaths(tmp_path: Path) -> None:
    """No process, no descriptor, no shared memory: large tensors both ways, then kill -9."""
    gc.collect()  # what earlier tests left to the collector would be counted here
    current_readiness()  # which stays as long as the event loop
    before, segments = descriptor_count(), shared_segments()
    large = np.arange(100_000, dtype=np.float32)
    pids = set()
    async with running(model_spec(tmp_path, FRAGILE)) as rig:
        for number in range(12):
            while True:
                try:
                    answer = await rig.infer(large + number)
                except ServerError:
                    continue
                if answer != FAILED:
                    break
            assert isinstance(answer, list)
            assert answer[1] == number + 1
            assert shared_segments() == segments + 2
            pids.add(pid_of(rig))
            os.kill(pid_of(rig), signal.SIGKILL)
        await rig.logged("has died")
    del answer
    assert len(pids) == 12
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert descriptor_count() == before
    assert shared_segments() == segments


async def test_a_worker_ends_with_its_server(tmp_path: Path) -> None:
    """Even in the middle of a model that never returns."""
    script = f"""
import sys, trio
from pathlib import Path
from tests.actors.process_rig import model_spec, request, running
BODY = '''
def initialize(self, args): print("pid", os.getpid())
def execute(self, requests):
    Path(pb_utils.get_model_dir(), "busy").touch()
    while True: pass
'''
async def main():
    spec = model_spec(Path({str(tmp_path)!r}), BODY, head="from pathlib import Path\\n" + HEAD)
    async with running(spec) as rig:
        _, line = await rig.logged("pid")
        print(line.split()[-1], flush=True)
        await rig.infer([1])
from tests.actors.process_rig import HEAD
trio.run(main)
"""
    root = Path(__file__).parents[2]
    server = await trio.lowlevel.open_process(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root
    )
    assert server.stdout is not None
    with trio.fail_after(20):
        worker = int(await server.stdout.receive_some())
        while not (tmp_path / "m" / "1" / "busy").exists():  # noqa: ASYNC110  # another process
            await trio.sleep(0.005)
        server.kill()
        await server.wait()
        while _is_running(worker):  # noqa: ASYNC110  # another process
            await trio.sleep(0.005)
    await server.stdout.aclose()


def _is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie that its new parent has not reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
