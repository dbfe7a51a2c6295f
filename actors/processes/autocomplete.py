"""Asks a model.py to complete its own configuration, in a worker process that is then thrown away.

A process of its own, because importing a model may leave anything behind in the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from actors.processes.ports import Log
from actors.processes.worker import WorkerProcess
from actors.processes.zygote import FreshInterpreters, Starter
from protocol.status import ServerError, internal
from repo.backends.python import wire
from repo.backends.python.launch import WorkerSpec


async def auto_complete(
    prepare: Callable[[], WorkerSpec], *, log: Log, starter: Starter | None = None
) -> str | None:
    """The configuration as JSON; None when the model has no `auto_complete_config`.

    `prepare` makes a spec with `auto_complete` set; it may block, and is called in a thread.
    Raises ServerError.
    """
    spec = await trio.to_thread.run_sync(prepare)
    assert spec.load.auto_complete, "the spec is for an instance"
    failure: ServerError | None = None
    answer: wire.Message | None = None
    async with trio.open_nursery() as nursery:
        worker = WorkerProcess(
            spec,
            nursery=nursery,
            starter=FreshInterpreters() if starter is None else starter,
            log=log,
            bls=None,
            metrics=None,
        )
        try:
            answer = await nursery.start(worker.run)
        except ServerError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if isinstance(answer, wire.LoadFailed):
        raise internal(answer.message)
    assert isinstance(answer, wire.AutoCompleted), "a worker answers what it was asked"
    return answer.config_json or None
