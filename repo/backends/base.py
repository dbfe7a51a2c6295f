"""What a backend is: code that loads one model instance and runs batches on it.

A backend is plain blocking Python. Each instance lives in one thread (or one worker process) of
its own, and every method is called from that thread, so an implementation needs no lock and may
keep thread-local state such as a current device. This is also the interface of custom backends.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError, StatusCode, invalid_arg
from repo.model_config import ModelConfig

if TYPE_CHECKING:
    from repo.devices.lane import Lane
    from repo.devices.port import DeviceArray

COMPUTE_CAPABILITY: Final = "compute-capability"
"""The setting that tells an instance on a GPU what its GPU can do: "9.0"."""

Outcome = InferResponse | ServerError
"""How one response of one request turned out."""


class Rescheduled(ServerError):
    """No failure: the model asks to be given this request again (iterative sequences).

    An outcome that only a sequence batcher understands; to anyone else it reads as an error. With
    `is_late` it only announces the one that comes through the sender, behind earlier responses.
    """

    __slots__ = ("is_late",)

    def __init__(self, *, is_late: bool = False) -> None:
        self.is_late = is_late
        super().__init__(
            StatusCode.INVALID_ARG,
            "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is "
            "not configured to handle such a flag.",
        )


@dataclass(frozen=True, slots=True)
class InstanceContext:
    """Everything an instance may know about itself when it loads."""

    config: ModelConfig
    version: int
    model_directory: Path  # <repository>/<model>
    instance_name: str
    kind: str  # "CPU", "GPU" or "MODEL"
    device_id: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)  # merged --backend-config values
    cores: frozenset[int] = frozenset()  # to run on, by its host policy; empty: wherever

    @property
    def model_name(self) -> str:
        return self.config.name

    @property
    def version_directory(self) -> Path:
        return self.model_directory / str(self.version)


class ResponseSender(Protocol):
    """Where the responses of one request go; callable from any thread until `final` was sent."""

    def send(self, outcome: Outcome | None, *, final: bool) -> None:
        """Give one response. `None` with `final` ends a decoupled request without another one.

        Blocks while the receiver's window is full, which is how a slow reader slows its producer.
        """

    def is_cancelled(self) -> bool:
        """Whether nobody waits for this request any longer; a live query."""


class SequenceStates(Protocol):
    """The implicit state of the sequence that a request belongs to."""

    def update(self, tensor: Tensor) -> None:
        """Replace the state whose output has the tensor's name. Raises ServerError."""


@dataclass(frozen=True, slots=True, eq=False)
class ExecuteRequest:
    """One request of a batch as its backend sees it.

    `batch_size` is the leading dimension of its tensors, or 0 for a model without batching.
    A null request only pads a sequence batch: its outcome is dropped.
    """

    request: InferRequest
    batch_size: int
    sender: ResponseSender
    is_null: bool = False
    number: int = 0  # names the request in `Executor.cancel`
    states: SequenceStates | None = None  # None: the model has no implicit state

    def update_state(self, tensor: Tensor) -> None:
        """Replace a state of the request's sequence, for its next request.

        A state output in the response does the same. Raises ServerError INVALID_ARG for a name
        that is no state's output, or where the configuration has no states.
        """
        if self.states is None:
            raise invalid_arg(
                f"unable to add state '{tensor.name}'. State configuration is missing for model "
                f"'{self.request.model_name}'."
            )
        self.states.update(tensor)


@dataclass(slots=True)
class Timings:
    """How long the three phases of one execution took, for the statistics.

    `began_at` is an instant of its instance's clock, in seconds; -1 if it never began.
    """

    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    began_at: float = -1.0


class DeviceModel(Protocol):
    """A loaded model whose batches come, and are left, in device memory."""

    def run(self, inputs: Mapping[str, DeviceArray]) -> Mapping[str, DeviceArray]:
        """Give one batch to the lane's compute stream, and return without waiting for it.

        The inputs may be used until that stream has come past the batch; what is returned owns
        its memory. Raises ServerError.
        """


class Backend(abc.ABC):
    """One loaded model instance."""

    uses_lane = False  # whether instances on a GPU want a lane there

    lane: Lane | None = None
    """What this instance has of its GPU; set in its thread before `load` where it wants one."""

    def __init__(self, context: InstanceContext) -> None:
        self.context = context

    @classmethod
    def auto_complete(cls, context: InstanceContext) -> ModelConfig:
        """The configuration with what the model's files can tell filled in.

        Called once per version before any instance exists. Raises ServerError.
        """
        return context.config

    @abc.abstractmethod
    def load(self) -> None:
        """Load the model. Raises ServerError with the text that the index shows as reason."""

    @abc.abstractmethod
    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        """Run one batch and return one outcome per request, in order.

        `None` says that the request's responses go, or went, through its sender. Requested outputs
        may be filtered here or not: the server prunes what was not asked for. An exception that
        is not a ServerError fails the whole batch as INTERNAL.
        """

    def on_device(self) -> DeviceModel | None:
        """After `load`, with a lane: how to run plain batches on the device. None: by `execute`."""
        return None

    def unload(self) -> None:  # noqa: B027  # most backends have nothing to release
        """Release what `load` took. Called once, also after a failed load."""
