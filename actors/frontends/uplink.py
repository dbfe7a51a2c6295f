"""The frontend process's side of the conversation: what its connections submit goes to the core.

Owns the doors that stand for those of the models, the requests under way through them, and the
room that each caller has for responses. A connection submits, cancels and is answered as it would
be by the models themselves. What goes up or comes in within one turn travels together. When the
pipe is full the doors fill, and callers wait before them as they would before a model's.

What it hears of the core: snapshots of the index, regions of shared memory, and orders, which go to
`obey`. It never judges a request, and it keeps none when the core has gone.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import trio

from actors.channels import Door, Mailbox, Watch
from actors.frontends import records
from actors.frontends.link_end import LinkEnd, layout_of
from actors.frontends.pipe import PeerGone, Pipe
from actors.frontends.records import Rest
from actors.frontends.snapshot import Described, Replica
from actors.lifecycle.model_index import ModelIndex
from actors.messages import CancelRequest, Control, Reply, Submit
from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError, cancelled, unavailable
from repo.backends.python.layout import WireError

# As many as before a model; they are emptied in every turn, unless the pipe is full.
SUBMIT_DOOR: Final = 64
# Cancellations; one that finds no room lets the request run to its end.
CONTROL_DOOR: Final = 4096
# Requests under way. Each is a connection's or a call's, of which there are fewer; this only
# bounds what a defect can pile up.
MAX_IN_FLIGHT: Final = 1 << 16
# Responses that a caller may have room for, as the core counts them.
MAX_WINDOW: Final = 1 << 10

Message = tuple[Rest, bytes]
"""What a forwarded call is answered with: an object, and bytes."""


class _Bell(Mailbox):
    """Rings the uplink, and notes who did: looking at every door would cost a look per model."""

    __slots__ = ("_bells", "_uplink", "decoupled", "handle", "name", "version")

    def __init__(self, uplink: Mailbox, bells: dict[_Bell, None], version: Described) -> None:
        super().__init__()
        self._uplink = uplink
        self._bells = bells
        self.handle = version.handle
        self.name = version.name
        self.version = str(version.version)
        self.decoupled = version.decoupled

    def ring(self) -> None:
        self._bells[self] = None
        self._uplink.ring()


class _Call:
    """A request that the core works at."""

    __slots__ = ("answered", "granted", "submit", "version", "window")

    def __init__(self, submit: Submit, version: str, window: int) -> None:
        self.submit = submit
        self.version = version
        self.window = window  # of the caller; 0 where there is one response, which has its place
        self.granted = window  # responses that the core may send, all told
        self.answered = 0  # responses that it has sent


class _Ask:
    """A forwarded call."""

    __slots__ = ("answer", "ended")

    def __init__(self) -> None:
        self.answer: Message | None = None
        self.ended = trio.Event()


class Uplink:
    """See the module's docstring."""

    def __init__(
        self,
        pipe: Pipe,
        *,
        index: Watch[ModelIndex],
        first_number: int,
        follow: Callable[[Rest], bool],
        obey: Callable[[Rest], None],
    ) -> None:
        """`index` is where the core's index appears; `first_number` is the first forwarded call's.

        `follow` hears what else the core's snapshots say, and says whether it holds now; if not,
        `synced` is to be called once it does. `obey` takes the core's orders.
        """
        self._mailbox = Mailbox()
        self._end = LinkEnd(pipe, wake=self._mailbox.ring)
        self._index = index
        self._follow = follow
        self._obey = obey
        self._control: Door[Control] = self._mailbox.door(CONTROL_DOOR)
        self._replica = Replica(make_doors=self._make_doors, control=self._control)
        self._rung: dict[_Bell, None] = {}
        self._bells: dict[int, _Bell] = {}  # by handle
        self._open: dict[int, _Call] = {}  # at most MAX_IN_FLIGHT
        self._starved: dict[int, None] = {}  # decoupled calls whose caller is to make room
        self._asks: dict[int, _Ask] = {}  # one per control call under way
        self._numbers = itertools.count(first_number)
        self._generation = 0  # of the last snapshot
        self.has_index = trio.Event()

    async def run(self) -> None:
        """Serve until the core has gone. Raises WireError, in a group, for a defect of the core."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end.run, self._take, self._settle)
                nursery.start_soon(self._end.run_writer)
                await self._mailbox.serve(self._turn)
        except* PeerGone:
            pass
        finally:
            self._abandon()
            self._mailbox.close()
            self._end.close()

    def say(self, message: Rest, blob: bytes = b"") -> None:
        """Tell the core something, in the next turn."""
        self._end.say(records.pack_message(message), records.BLOB, [blob])
        self._mailbox.ring()

    async def ask(self, question: Rest, blob: bytes = b"") -> Message:
        """Have the core answer; cancelling the wait cancels the call there.

        Raises UNAVAILABLE when the core goes away meanwhile.
        """
        number = next(self._numbers)
        ask = self._asks[number] = _Ask()
        self.say({"ask": number, **question}, blob)
        try:
            await ask.ended.wait()
        except trio.Cancelled:
            self.say({"cancel_ask": number})
            raise
        finally:
            del self._asks[number]
        if ask.answer is None:
            raise _gone()
        return ask.answer

    # --- up --------------------------------------------------------------------------------------

    def _make_doors(self, version: Described) -> Sequence[Door[Submit]]:
        bell = self._bells[version.handle] = _Bell(self._mailbox, self._rung, version)
        return [bell.door(SUBMIT_DOOR) for _ in range(version.doors)]

    def _turn(self) -> float:
        end = self._end
        if not end.is_stuck:
            if self._rung:
                self._take_submits()
            for control in self._control.drain():
                if isinstance(control, CancelRequest):
                    self._cancel(control.number)
            if self._starved:
                self._feed()
        for extras, error in end.flush():
            if records.kind_of(extras) == records.SUBMIT:
                number = records.read_submit(extras).number
                self._reply(number, unavailable(str(error)), final=True)
        return math.inf

    def _take_submits(self) -> None:
        for bell in list(self._rung):
            del self._rung[bell]
            self._take_from(bell)

    def _take_from(self, bell: _Bell) -> None:
        for door in bell.doors:
            submits = cast("Door[Submit]", door)
            for submit in submits.drain(MAX_IN_FLIGHT - len(self._open)):
                self._send(bell, submit)
            if len(submits):
                self._rung[bell] = None  # for the turn after the next answer

    def _send(self, bell: _Bell, submit: Submit) -> None:
        request = submit.request
        window = min(submit.reply.capacity, MAX_WINDOW) if bell.decoupled else 0
        self._open[submit.number] = _Call(submit, bell.version, window)
        left = submit.deadline_at
        if left != math.inf:
            left -= trio.current_time()
        extras = records.pack_submit(
            records.Submitted(
                submit.number,
                bell.handle,
                submit.level,
                submit.batch_size,
                submit.shape_key,
                left,
                window,
                request.sequence_flags,
                request.id,
                _rest_of(request, bell.name),
            )
        )
        self._end.say(extras, *layout_of(request.requested_outputs, request.inputs))

    def _cancel(self, number: int) -> None:
        """The core answers for what it has, here is answered for what has not gone up yet."""
        if number in self._open:
            self._end.say(records.pack_numbered(records.CANCEL, number))
            return
        for bell in self._rung:
            for door in bell.doors:
                found = cast("Door[Submit]", door).pick(lambda one: one.number == number)
                if found is not None:
                    with contextlib.suppress(trio.BrokenResourceError):
                        found.reply.send_owed(Reply(number, cancelled(), final=True))
                    return

    def _feed(self) -> None:
        """Tell the core of room that callers have made."""
        for number in list(self._starved):
            call = self._open.get(number)
            if call is None or self._grant(number, call):
                del self._starved[number]

    def _grant(self, number: int, call: _Call) -> bool:
        """Give credit for what the caller has taken; False if it has to take something first."""
        door = call.submit.reply
        if door.is_closed:
            return True  # it will be cancelled
        coming = call.granted - call.answered
        room = call.window - len(door) - coming
        if room <= 0:
            if coming:
                return True  # with the next response it is looked at again
            door.ring_when_room(self._mailbox)
            return False
        call.granted += room
        self._end.say(records.pack_credit(number, room))
        return True

    # --- down ------------------------------------------------------------------------------------

    def _take(self, extras: bytes, tensors: list[Tensor], _: tuple[str, ...]) -> None:
        kind = records.kind_of(extras)
        if kind == records.RESPONSE:
            self._on_response(records.read_response(extras), tensors)
        elif kind == records.ERROR:
            number, error, final = records.read_error(extras)
            self._reply(number, error, final=final)
        elif kind == records.END:
            self._reply(records.read_numbered(extras), None, final=True)
        elif kind == records.MESSAGE:
            blob = bytes(tensors[0].raw) if tensors else b""
            self._on_message(records.read_message(extras), blob)
        else:
            raise WireError(f"the core sent a record of kind {kind}")

    def _settle(self) -> None:
        """What came in is with its callers: take along what waited for that."""
        if self._rung or self._starved:
            self._mailbox.ring()

    def _on_response(self, said: records.Responded, tensors: list[Tensor]) -> None:
        number, final, response_id, rest = said
        call = self._open.get(number)
        if call is None:
            return  # cancelled
        request = call.submit.request
        response = InferResponse(
            request.model_name,
            call.version,
            request.id if response_id is None else response_id,
            tensors,
        )
        if rest:
            response.model_name = str(rest.get("model_name", request.model_name))
            response.model_version = str(rest.get("model_version", call.version))
            parameters = rest.get("parameters", {})
            response.parameters = cast("dict[str, bool | int | float | str]", parameters)
        self._reply(number, response, final=final)

    def _reply(
        self, number: int, outcome: InferResponse | ServerError | None, *, final: bool
    ) -> None:
        call = self._open.get(number)
        if call is None:
            return
        door = call.submit.reply
        try:
            door.send_nowait(Reply(number, outcome, final))
        except trio.WouldBlock:
            door.send_owed(Reply(number, outcome, final))
        except trio.BrokenResourceError:
            pass  # its caller has left, and says so
        if final:
            del self._open[number]
            self._starved.pop(number, None)
            return
        call.answered += 1
        if call.window and call.granted - call.answered <= call.window // 2:
            self._starved[number] = None

    def _on_message(self, message: Rest, blob: bytes) -> None:
        if "answer" in message:
            ask = self._asks.get(cast("int", message["answer"]))
            if ask is not None:
                ask.answer = (message, blob)
                ask.ended.set()
        elif "snapshot" in message:
            self._on_snapshot(message)
        else:
            self._obey(message)

    def _on_snapshot(self, message: Rest) -> None:
        snapshot = cast("Mapping[str, object]", message["snapshot"])
        index, gone = self._replica.apply(snapshot)
        holds = self._follow(message)
        self._index.value = index
        for handle in gone:
            bell = self._bells.pop(handle)
            self._take_from(bell)  # the core knows what becomes of them
            self._rung.pop(bell, None)
            bell.close()
        self.has_index.set()
        self._generation = cast("int", message["generation"])
        if holds:
            self.synced()

    def synced(self) -> None:
        """What the last snapshot said holds here."""
        self.say({"synced": self._generation})

    def _abandon(self) -> None:
        """The core has gone: nobody answers any more."""
        for number in list(self._open):
            self._reply(number, _gone(), final=True)
        for bell in self._bells.values():
            bell.close()
        for ask in self._asks.values():
            ask.ended.set()


def _gone() -> ServerError:
    return unavailable("the server has stopped")


def _rest_of(request: InferRequest, name: str) -> Rest:
    """What few requests have; `name` is the model's own, by which most ask for it."""
    if not (
        request.parameters
        or request.correlation_id
        or request.timeout_us
        or request.model_version
        or request.priority
        or request.model_name != name
    ):
        return records.NOTHING
    rest: dict[str, object] = {}
    if request.parameters:
        rest["parameters"] = request.parameters
    if request.correlation_id:
        rest["correlation_id"] = request.correlation_id
    if request.timeout_us:
        rest["timeout_us"] = request.timeout_us
    if request.model_version:
        rest["model_version"] = request.model_version
    if request.priority:
        rest["priority"] = request.priority
    if request.model_name != name:
        rest["model_name"] = request.model_name
    return rest
