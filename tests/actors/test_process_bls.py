"""OtherModels, the BlsPort of a real server, on the whole street in virtual time."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio
import trio.testing

from actors.options import ServerOptions
from actors.process_bls import OtherModels
from protocol.inference import InferRequest, InferResponse
from protocol.status import ServerError, not_found
from repo.backends.base import ExecuteRequest, Outcome
from simulation.executor import echo
from simulation.seeding import seeded_scheduler
from simulation.world import Scenario, SimulatedModel, World, zeros

IO = """
backend: "simulated"
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
max_batch_size: 8
"""
DECOUPLED = IO + "model_transaction_policy { decoupled: true }"


def missing(_: ExecuteRequest) -> Outcome:
    return not_found("its own error")


def stream(request: ExecuteRequest) -> list[tuple[float, Outcome]]:
    return [(0.25, echo(request)), (0.25, missing(request)), (0.5, echo(request))]


def world(**options: str) -> World:
    return World(
        {
            "plain": SimulatedModel(IO, latency=lambda _: 0.25),
            "failing": SimulatedModel(IO, behaviour=missing),
            "stream": SimulatedModel(DECOUPLED, responses=stream),
        },
        options=ServerOptions(model_repository=("simulated",), **options),  # type: ignore[arg-type]  # texts all
    )


def run(of: World, scenario: Scenario) -> None:
    """As `World.run`, without its books, which know of nobody but the world's own clients."""
    with seeded_scheduler(0) as of.random:
        trio.run(of._run, scenario, clock=of.clock)


def others(of: World) -> OtherModels:
    return OtherModels(calls=of.core.calls, control_plane=of.core.control_plane)


async def collect(of: World, asked: InferRequest, *, decoupled: bool = False) -> list[object]:
    """Per response its kind and whether it was the last; or the refusal."""
    found: list[object] = []
    try:
        async with aclosing(others(of).infer(asked, decoupled=decoupled)) as responses:
            async for outcome, final in responses:
                error = isinstance(outcome, ServerError)
                found.append((str(outcome) if error else type(outcome), final))
    except ServerError as refusal:
        found.append(refusal.message)
    return found


def test_a_model_answers_once_and_a_decoupled_one_as_often_as_it_likes() -> None:
    async def scenario(of: World) -> None:
        for decoupled in (False, True):
            found = await collect(of, zeros("plain", (1, 1)), decoupled=decoupled)
            assert found == [(InferResponse, True)]
        assert await collect(of, zeros("failing", (1, 1))) == [("Not found: its own error", True)]
        assert await collect(of, zeros("stream", (1, 1)), decoupled=True) == [
            (InferResponse, False),
            ("Not found: its own error", False),
            (InferResponse, False),
            (type(None), True),
        ]

    run(world(), scenario)


def test_what_cannot_be_run_is_refused_in_tritons_words() -> None:
    async def scenario(of: World) -> None:
        assert await collect(of, zeros("gone", (1, 1))) == [
            "Failed for execute the inference request. Model 'gone' is not ready."
        ]
        assert await collect(of, zeros("stream", (1, 1))) == [
            (
                "Model stream is using the decoupled. The current BLS request call doesn't support "
                "models using the decoupled transaction policy. Please use 'decoupled=True' "
                "argument to the 'exec' or 'async_exec' calls for decoupled models.'"
            )
        ]
        (refusal,) = await collect(of, zeros("plain", (1, 2)))
        assert str(refusal).startswith("[request id: <id_unknown>] unexpected shape for input")

    run(world(), scenario)


def test_leaving_the_iterator_cancels_the_call() -> None:
    async def scenario(of: World) -> None:
        async with aclosing(others(of).infer(zeros("stream", (1, 1)), decoupled=True)) as responses:
            async for _ in responses:
                break
        with trio.move_on_after(0.125):
            await collect(of, zeros("plain", (1, 1)))
        await trio.testing.wait_all_tasks_blocked()

    run(world(), scenario)


def test_models_are_controlled_where_the_operator_allows_it() -> None:
    async def scenario(of: World) -> None:
        access = others(of)
        assert await access.is_ready("plain", "")
        assert not await access.is_ready("plain", "7")
        with pytest.raises(ServerError, match="Request for unknown model: 'gone' is not found"):
            await access.is_ready("gone", "")
        await access.unload("plain", unload_dependents=False)
        assert not await access.is_ready("plain", "")
        await access.load("plain", "", {})
        assert await access.is_ready("plain", "")

    explicit = {"model_control_mode": "explicit", "load_model": ("*",)}
    run(world(**explicit), scenario)  # type: ignore[arg-type]  # a tuple as well


def test_models_are_not_controlled_otherwise() -> None:
    async def scenario(of: World) -> None:
        with pytest.raises(ServerError, match="explicit model load / unload is not allowed"):
            await others(of).load("plain", "{}", {"file:1/x": b""})
        with pytest.raises(ServerError, match="explicit model load / unload is not allowed"):
            await others(of).unload("plain", unload_dependents=True)

    run(world(), scenario)
