"""OtherModels, the BlsPort of a real server: what it asks of the street and the control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from actors.control.control_plane import ControlPlane
from actors.processes import other_models as process_bls
from actors.processes.other_models import OtherModels
from actors.processes.ports import BlsPort
from actors.street.calls import Calls
from protocol.inference import InferRequest, InferResponse
from protocol.status import ServerError, invalid_arg, not_found
from repo.backends.base import Outcome


class Street:
    """Two models as callers find them: `plain` answers once, `stream` is decoupled."""

    def __init__(self) -> None:
        self.answers: list[Outcome | None] = []
        self.refusal: ServerError | None = None
        self.left: list[bool] = []  # per call: whether it had finished when it was left
        self.controlled: list[object] = []
        self.models = {"plain": False, "stream": True}
        self.index = SimpleNamespace(value=self)

    def entry_of(self, name: str) -> object:
        return self.models.get(name)

    def find(self, name: str, version: str) -> SimpleNamespace:
        if name not in self.models:
            raise not_found(f"Request for unknown model: '{name}' is not found")
        return SimpleNamespace(decoupled=self.models[name])

    @asynccontextmanager
    async def open_call(
        self, calls: object, request: InferRequest, *, by_program: bool
    ) -> AsyncIterator[Street]:
        assert calls is self
        assert not by_program, "a model's request is traced only as part of another"
        if self.refusal is not None:
            raise self.refusal
        try:
            yield self
        finally:
            self.left.append(self.finished)

    @property
    def finished(self) -> bool:
        return not self.answers

    async def next(self) -> InferResponse | None:
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0)
        if isinstance(answer, ServerError):
            raise answer
        return answer

    # The control plane.

    async def load_model(
        self,
        repository: str,
        name: str,
        parameters: Mapping[str, str | bytes],
        *,
        by_model: bool = False,
    ) -> None:
        await trio.lowlevel.checkpoint()
        assert by_model, "or the load would wait for a place that its asker may occupy"
        self.controlled.append((repository, name, dict(parameters)))

    async def unload_model(self, repository: str, name: str, *, unload_dependents: bool) -> None:
        await trio.lowlevel.checkpoint()
        self.controlled.append((repository, name, unload_dependents))

    async def is_model_ready(self, name: str, version: str) -> bool:
        await trio.lowlevel.checkpoint()
        return version != "7"


@pytest.fixture
def street(monkeypatch: pytest.MonkeyPatch) -> Street:
    made = Street()
    monkeypatch.setattr(process_bls, "open_call", made.open_call)
    return made


def others(street: Street) -> BlsPort:
    fake = cast("Any", street)
    return OtherModels(calls=cast("Calls", fake), control_plane=cast("ControlPlane", fake))


async def collect(
    street: Street, name: str, answers: Sequence[Outcome | None], *, decoupled: bool
) -> list[tuple[Outcome | None, bool]]:
    street.answers = list(answers)
    async with aclosing(others(street).infer(InferRequest(name), decoupled=decoupled)) as found:
        return [each async for each in found]


async def test_every_answer_is_passed_on_and_the_last_one_marked(street: Street) -> None:
    one, other = InferResponse("plain", "1"), InferResponse("stream", "1")
    failed = invalid_arg("its own error")
    for decoupled in (False, True):
        found = await collect(street, "plain", [one], decoupled=decoupled)
        assert found == [(one, True)]
    assert await collect(street, "plain", [failed], decoupled=False) == [(failed, True)]
    assert await collect(street, "stream", [other, failed, other, None], decoupled=True) == [
        (other, False),
        (failed, False),
        (other, False),
        (None, True),
    ]
    assert street.left == [True] * 4


async def test_what_cannot_be_run_is_refused_in_tritons_words(street: Street) -> None:
    async def refusal(name: str) -> str:
        with pytest.raises(ServerError) as caught:
            await collect(street, name, [], decoupled=False)
        return caught.value.message

    assert await refusal("gone") == (
        "Failed for execute the inference request. Model 'gone' is not ready."
    )
    assert await refusal("stream") == (
        "Model stream is using the decoupled. The current BLS request call doesn't support models "
        "using the decoupled transaction policy. Please use 'decoupled=True' argument to the "
        "'exec' or 'async_exec' calls for decoupled models.'"
    )
    street.refusal = invalid_arg("unexpected shape")
    assert await refusal("plain") == "unexpected shape"
    assert not street.left


async def test_leaving_the_generator_leaves_the_call(street: Street) -> None:
    street.answers = [InferResponse("stream", "1")] * 3
    async with aclosing(others(street).infer(InferRequest("stream"), decoupled=True)) as found:
        async for _ in found:
            break
    assert street.left == [False]


async def test_models_are_controlled_as_an_operator_would(street: Street) -> None:
    access = others(street)
    await access.load("a", "", {})
    await access.load("a", "{}", {"file:1/x": b"y"})
    await access.unload("a", unload_dependents=True)
    assert street.controlled == [
        ("", "a", {}),
        ("", "a", {"config": "{}", "file:1/x": b"y"}),
        ("", "a", True),
    ]


async def test_readiness_of_what_was_never_heard_of_is_an_error(street: Street) -> None:
    access = others(street)
    assert await access.is_ready("plain", "")
    assert not await access.is_ready("plain", "7")
    with pytest.raises(ServerError) as caught:
        await access.is_ready("gone", "")
    assert caught.value.message == "Request for unknown model: 'gone' is not found"
