"""What the decoupled test backends share: responses that go on after `execute` has returned.

Owns one thread per request, how many there may be, and their end when the model unloads; and the
configuration that such a model completes. What a thread sends is its model's own affair.
"""

from __future__ import annotations

import logging
import threading  # noqa: TID251  # answering after `execute` is what these models are for
from collections.abc import Callable, Sequence
from typing import Final

from protocol.status import invalid_arg
from repo.backends.base import InstanceContext
from repo.model_config import ModelConfig, ModelInput, ModelOutput, copy_config, is_decoupled

_LOG = logging.getLogger("troupe.repo")

# A model that is asked for more waits for room, and its scheduler holds the requests back. Each
# thread mostly sleeps, so the limit is about memory.
MAX_THREADS: Final = 256


def completed(
    config: ModelConfig, inputs: Sequence[ModelInput], outputs: Sequence[ModelOutput]
) -> ModelConfig:
    """A copy of `config` that is decoupled, and has these tensors where it had none."""
    config = copy_config(config)
    config.model_transaction_policy.decoupled = True
    config.input = config.input or list(inputs)
    config.output = config.output or list(outputs)
    return config


def check_decoupled(context: InstanceContext) -> None:
    """Raises ServerError INVALID_ARG when the model may give only one response per request."""
    if not is_decoupled(context.config):
        raise invalid_arg(
            f"model '{context.model_name}' with backend '{context.config.backend}' must set "
            "model_transaction_policy { decoupled: true }"
        )


class ResponseThreads:
    """The threads of one model instance."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._room = threading.BoundedSemaphore(MAX_THREADS)
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self.stopping = threading.Event()

    def start(self, respond: Callable[[], None]) -> None:
        """Run `respond` in a thread of its own; waits while `MAX_THREADS` are running."""
        self._room.acquire()
        thread = threading.Thread(target=self._run, args=(respond,), name=self._name, daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def pause(self, seconds: float) -> None:
        """Sleep inside `respond`; ends early when the model unloads."""
        if seconds > 0:
            self.stopping.wait(seconds)

    def stop(self) -> None:
        """Hurry all threads up and wait for them."""
        self.stopping.set()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _run(self, respond: Callable[[], None]) -> None:
        try:
            respond()
        except Exception:  # noqa: BLE001  # the edge of a thread
            # The request's caller is gone, or the server ends; there is nobody left to tell.
            _LOG.exception("instance '%s' could not send its responses", self._name)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
            self._room.release()
