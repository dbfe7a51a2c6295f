"""Responses that do not come from `execute`'s return: late, decoupled, cancelled, rescheduled."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from protocol.inference import InferResponse
from protocol.status import ServerError, StatusCode
from repo.backends.base import ExecuteRequest, Rescheduled
from tests.actors.process_rig import Client, model_spec, plain, request, running

PREFIX = "Failed to process the request(s) for model 'm_0_0', message: "
REFUSED = "TritonModelException: Unable to send response. "


async def finished(*clients: Client) -> None:
    with trio.fail_after(20):
        for client in clients:
            await client.finished.wait()


async def test_a_thread_may_answer_after_execute_has_returned(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        def later(sender, array):
            attempt(sender.send, flags=FINAL)
            sender.send(answer(array), flags=FINAL)
            attempt(sender.send, answer(array))
            attempt(sender.send, flags=FINAL)
        for r in requests:
            threading.Timer(0.01, later, (r.get_response_sender(), value(r) + 1)).start()
        return None if len(requests) == 1 else [None] * len(requests)
    """
    clients = [Client(), Client(), Client()]
    async with running(model_spec(tmp_path, body)) as rig:
        assert await rig.run(request([1], clients[0])) == [None]
        assert await rig.run(*[request([n], clients[n]) for n in (1, 2)]) == [None, None]
        await finished(*clients)
    assert [client.values() for client in clients] == [[[2]], [[2]], [[3]]]
    for text in (
        "Non-decoupled model cannot send complete final before sending a response.",
        "Non-decoupled model cannot send more than one response.",
        "Response sender has been closed.",
    ):
        assert rig.said().count(REFUSED + text) == 3


async def test_a_decoupled_model_sends_any_number_of_responses(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        for r in requests:
            sender = r.get_response_sender()
            attempt(sender.send)
            attempt(sender.send, answer([0]), flags=2)
            attempt(sender.send, 5)
            for n in value(r):
                sender.send(answer([n]))
            sender.send(flags=FINAL)
            attempt(sender.send, answer([0]))
    """
    three, none = Client(), Client()
    async with running(model_spec(tmp_path, body, decoupled=1)) as rig:
        assert await rig.run(request([7, 8, 9], three), request([], none)) == [None, None]
        await finished(three, none)
    assert three.values() == [[7], [8], [9], None]
    assert [final for _, final in three.arrived] == [False, False, False, True]
    assert none.arrived == [(None, True)]
    assert rig.said()[:4] == [
        (
            "TritonModelException: Inference Response object must be provided when the response "
            "flags is set to zero."
        ),
        REFUSED + "Unsupported flag provided.",
        "TypeError: response must be InferenceResponse, not int",
        REFUSED + "Response sender has been closed.",
    ]


async def test_responses_keep_their_order_outputs_and_errors(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        sender = requests[0].get_response_sender()
        for n in range(40):
            array = np.full(20_000 if n % 3 else 4, n, np.int32)
            odd = pb_utils.TritonError("odd", pb_utils.TritonError.UNAVAILABLE)
            error = odd if n % 5 == 4 else None
            tensors = [] if error else [pb_utils.Tensor("NO", array), pb_utils.Tensor("OUT", array)]
            sender.send(pb_utils.InferenceResponse(tensors, error=error), FINAL if n == 39 else 0)
    """
    client = Client()
    async with running(model_spec(tmp_path, body, decoupled=1)) as rig:
        await rig.run(request([1], client, requested_outputs=("OUT",)))
        await finished(client)
    assert len(client.arrived) == 40
    for number, (outcome, final) in enumerate(client.arrived):
        assert final == (number == 39)
        if number % 5 == 4:
            assert isinstance(outcome, ServerError)
            assert (outcome.status, outcome.message) == (StatusCode.UNAVAILABLE, "odd")
        else:
            assert isinstance(outcome, InferResponse)
            (output,) = outcome.outputs
            assert output.shape == ((20_000,) if number % 3 else (4,))
            assert (output.array == number).all()


async def test_a_slow_client_holds_up_its_own_producer_only(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        def produce(sender, count):
            for n in range(count):
                sender.send(answer([n]))
                sys.stdout.write(f"sent {count} {n}\\n")
            sender.send(flags=FINAL)
        for r in requests:
            threading.Thread(target=produce, args=(r.get_response_sender(), value(r)[0])).start()
    """
    slow, fast = Client(slow=trio.Event()), Client()
    async with running(model_spec(tmp_path, body, decoupled=1)) as rig:
        await rig.run(request([50], slow), request([20], fast))
        await finished(fast)
        await rig.logged("sent 50 7")
        await trio.testing.wait_all_tasks_blocked(0.02)
        # The window, and not one more.
        assert sum("sent 50" in line for line in rig.said()) == 8
        assert fast.values() == [*([n] for n in range(20)), None]
        assert slow.slow is not None
        slow.slow.set()
        await finished(slow)
    assert slow.values() == [*([n] for n in range(50)), None]


async def test_cancellation_is_live_and_frees_a_producer_that_waits(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        def produce(request, sender):
            assert not request.is_cancelled() and not sender.is_cancelled()
            while not sender.is_cancelled():
                sender.send(answer([1]))
            assert request.is_cancelled()
            sender.send(flags=FINAL)
            print("stopped")
        for r in requests:
            threading.Thread(target=produce, args=(r, r.get_response_sender())).start()
    """
    blocked, leaving = Client(slow=trio.Event()), Client()
    async with running(model_spec(tmp_path, body, decoupled=1)) as rig:
        first = request([1], blocked)
        await rig.run(first)
        await trio.testing.wait_all_tasks_blocked(0.02)
        rig.executor.cancel(first.number)
        await rig.logged("stopped")
        # Whoever delivers finds out by itself that its client has gone.
        leaving.cancelled = True
        await rig.run(request([1], leaving))
        await finished(leaving)
        assert blocked.slow is not None
        blocked.slow.set()
        await finished(blocked)
        rig.executor.cancel(first.number)  # too late, and no harm
        assert await rig.executor.is_ready()
    assert rig.said() == ["stopped", "stopped"]


async def test_a_batch_that_runs_or_waits_can_be_cancelled(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        while value(requests[0])[0] and not requests[0].is_cancelled():
            time.sleep(0.001)
        return [answer([r.is_cancelled()]) for r in requests]
    """
    answers: dict[str, object] = {}
    async with running(model_spec(tmp_path, body)) as rig:

        async def ask(name: str, *requests: object) -> None:
            answers[name] = await rig.run(*requests)  # type: ignore[arg-type]  # start_soon's star

        running_one, queued, other = request([1]), request([0]), request([0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "running", running_one)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.start_soon(ask, "queued", other, queued)
            await trio.testing.wait_all_tasks_blocked(0.01)
            rig.executor.cancel(queued.number)
            rig.executor.cancel(running_one.number)
        assert await rig.infer([0]) == [False]
    assert answers == {"running": [[True]], "queued": [[False], [True]]}


async def test_a_batch_that_nobody_waits_for_when_its_turn_comes_is_not_run(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        print(f"runs {value(requests[0])[0]}")
        while value(requests[0])[0] == 1 and not requests[0].is_cancelled():
            time.sleep(0.001)
        return [answer([0]) for r in requests]
    """
    outcomes: dict[str, object] = {}
    async with running(model_spec(tmp_path, body)) as rig:

        async def ask(name: str, asked: ExecuteRequest) -> None:
            (outcomes[name],) = await rig.outcomes(asked)

        slow, queued = request([1]), request([2])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "slow", slow)
            await rig.logged("runs 1")
            nursery.start_soon(ask, "queued", queued)
            await trio.testing.wait_all_tasks_blocked(0.01)
            rig.executor.cancel(queued.number)
            await trio.testing.wait_all_tasks_blocked(0.01)
            rig.executor.cancel(slow.number)
        assert await rig.infer([3]) == [0]
        await rig.logged("runs 3")
        assert rig.said() == ["runs 1", "runs 3"]
    error = outcomes["queued"]
    assert isinstance(error, ServerError)
    assert (error.status, error.message) == (StatusCode.CANCELLED, "")


async def test_a_request_that_a_model_forgets_is_ended_for_it(tmp_path: Path) -> None:
    body = "def execute(self, requests): requests[0].get_response_sender()"
    client = Client()
    async with running(model_spec(tmp_path / "decoupled", body, decoupled=1)) as rig:
        assert await rig.run(request([1], client)) == [None]
        await finished(client)
    assert client.arrived == [(None, True)]

    plain = Client()
    async with running(model_spec(tmp_path / "plain", body)) as rig:
        assert await rig.run(request([1], plain)) == [None]
        await finished(plain)
    text = "model instance 'm_0_0' released the request without sending a response"
    assert plain.values() == [text]


async def test_a_request_that_a_model_keeps_is_not_ended(tmp_path: Path) -> None:
    body = """
    kept = []
    def execute(self, requests):
        if len(self.kept) == 1:
            self.kept.pop().get_response_sender().send(answer([5]), FINAL)
            return [answer([0])]
        self.kept += requests
        del requests[:]
    """
    client = Client()
    async with running(model_spec(tmp_path, body)) as rig:
        assert await rig.run(request([1], client)) == [None]
        assert not client.arrived
        assert await rig.infer([1]) == [0]
        await finished(client)
    assert client.values() == [[5]]


async def test_async_decoupled_batches_overlap(tmp_path: Path) -> None:
    body = """
    arrived = 0
    async def execute(self, requests):
        import asyncio
        type(self).arrived += 1
        if value(requests[0])[0] < 0:
            raise KeyError("in the background")
        while self.arrived < 10:
            await asyncio.sleep(0.001)
        for r in requests:
            r.get_response_sender().send(answer(value(r)), FINAL)
    """
    clients = [Client() for _ in range(10)]
    async with running(model_spec(tmp_path, body, decoupled=1)) as rig:
        for number, client in enumerate(clients):
            assert await rig.run(request([number], client)) == [None]
        await finished(*clients)
        failing = Client()
        await rig.run(request([-1], failing))
        await finished(failing)
        await rig.logged("KeyError: 'in the background'")
    assert [client.values() for client in clients] == [[[n]] for n in range(10)]
    assert failing.arrived == [(None, True)]


async def test_a_failing_decoupled_execute_fails_what_is_still_open(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        if len(requests) == 1:
            return []
        requests[0].get_response_sender().send(answer([1]), FINAL)
        requests[1].get_response_sender().send(answer([2]))
        raise ValueError("half way")
    """
    clients = [Client(), Client(), Client()]
    async with running(model_spec(tmp_path, body, decoupled=1)) as rig:
        outcomes = await rig.run(*[request([1], client) for client in clients])
        await finished(*clients[:2])
        only = await rig.infer([1])
    assert outcomes[:2] == [None, None]
    assert clients[0].values() == [[1]]
    error = clients[1].values()[1]
    assert str(error).startswith(PREFIX + "ValueError: half way\n\nAt:\n")
    assert clients[1].values() == [[2], error]
    assert outcomes[2] == error
    assert only == (
        PREFIX + "Python model 'm_0_0' is using the decoupled mode and the execute function must "
        "return None."
    )


RESCHEDULE = """
def execute(self, requests):
    r = requests[0]
    r.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
    attempt(r.set_release_flags, 3)
    if value(r)[0] == 1:
        return [answer([1])]
    return [None]
"""


async def test_a_request_may_ask_to_be_executed_again(tmp_path: Path) -> None:
    async with running(model_spec(tmp_path, RESCHEDULE, reschedulable=1)) as rig:
        (outcome,) = await rig.outcomes(request([0]))
        refused = await rig.infer([1])
    assert isinstance(outcome, Rescheduled)
    assert refused == (
        PREFIX + "Expected a None object in the execute function return list for reschduled "
        "request, found type '<class 'c_python_backend_utils.InferenceResponse'>'."
    )


async def test_only_an_iterative_sequence_may_be_rescheduled(tmp_path: Path) -> None:
    async with running(model_spec(tmp_path, RESCHEDULE)) as rig:
        (outcome,) = await rig.outcomes(request([0]))
    assert isinstance(outcome, ServerError)
    assert outcome.status is StatusCode.INVALID_ARG
    assert outcome.message == (
        "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not "
        "configured to handle such a flag."
    )


async def test_a_rescheduled_request_keeps_the_responses_it_had(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        r = requests[0]
        left = value(r)[0]
        r.get_response_sender().send(answer([left]), 0 if left else FINAL)
        if left:
            r.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
    """
    spec = model_spec(tmp_path, body, decoupled=1, reschedulable=1)
    async with running(spec) as rig:
        for left in (2, 1, 0):
            client = Client()
            (outcome,) = await rig.outcomes(request([left], client))
            assert isinstance(outcome, Rescheduled) if left else outcome is None
            await finished(client)
            assert plain(client.arrived[0][0]) == [left]
            if left:
                # The word that it comes back is behind what it sent, not past it.
                assert isinstance(outcome, Rescheduled)
                assert outcome.is_late
                assert isinstance(client.arrived[1][0], Rescheduled)


async def test_late_responses_do_not_wait_for_execute_to_end(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        for r in requests:
            r.get_response_sender().send(answer([1]), FINAL)
        while not os.path.exists(os.path.join(pb_utils.get_model_dir(), "go")):
            time.sleep(0.001)
    """
    client = Client()
    async with running(model_spec(tmp_path, body)) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.run, request([1], client))
        await finished(client)
        (tmp_path / "m" / "1" / "go").touch()


async def test_a_returned_response_may_not_follow_a_sent_one(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        for r in requests[1:]:
            r.get_response_sender().send(answer([1]), FINAL)
        return [answer([2]) for r in requests]
    """
    answered, silent = Client(), Client()
    async with running(model_spec(tmp_path, body)) as rig:
        outcomes = await rig.run(request([1], silent), request([1], answered))
        await finished(answered)
    text = "Unable to send response. Non-decoupled model cannot send more than one response."
    assert outcomes == [PREFIX + text, None]
    assert answered.values() == [[1]]
    assert not silent.arrived


async def test_large_late_responses_reuse_their_memory(tmp_path: Path) -> None:
    """Spans come back with credit, although no execution carries them."""
    body = """
    def execute(self, requests):
        sender = requests[0].get_response_sender()
        for n in range(100):
            sender.send(answer(np.full(100_000, n, np.int32)))
        sender.send(flags=FINAL)
        maps = open("/proc/self/maps").read().count("memfd:troupe")
        print("segments", maps)
    """

    class Reader(Client):
        async def deliver(self, outcome: object, final: bool) -> None:
            if isinstance(outcome, InferResponse):
                assert (outcome.outputs[0].array == len(self.arrived)).all()
            self.arrived.append((None, final))
            if final:
                self.finished.set()
            await trio.lowlevel.checkpoint()

    client = Reader()
    async with running(model_spec(tmp_path, body, decoupled=1)) as rig:
        await rig.run(request([1], client))
        await finished(client)
        _, line = await rig.logged("segments")
    assert len(client.arrived) == 101
    # 40 MB went through at most 16 windows' worth of memory.
    assert int(line.split()[-1]) <= 4
