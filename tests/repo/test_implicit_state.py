"""Implicit state: what it is at the start, how it travels, what replaces it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protocol.inference import InferRequest, InferResponse, SequenceFlag, Tensor
from protocol.status import ServerError, StatusCode
from repo.backends.base import ExecuteRequest
from repo.implicit_state import SequenceState, StateKeeper, StatePlan
from repo.pbtxt import parse_config

START = SequenceFlag.START
NOWHERE = Path("nowhere")


def plan(states: str, *, max_batch: int = 4, directory: Path = NOWHERE) -> StatePlan:
    text = f"""name: "m" max_batch_size: {max_batch}
    output {{ name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] }}
    output {{ name: "SHOWN" data_type: TYPE_INT32 dims: [ 1 ] }}
    sequence_batching {{ {states} }}"""
    return StatePlan.load(parse_config(text, "config.pbtxt"), directory)


def state(name: str = "S", more: str = "", dims: str = "2", kind: str = "TYPE_INT32") -> str:
    return (
        f'state {{ input_name: "IN_{name}" output_name: "{name}" data_type: {kind} '
        f"dims: [ {dims} ] {more} }}"
    )


def initial(data: str, dims: str = "2", kind: str = "TYPE_INT32") -> str:
    return f'initial_state {{ name: "first" data_type: {kind} dims: [ {dims} ] {data} }}'


def keeper(states: str, **more: object) -> StateKeeper:
    return StateKeeper(plan(states, **more))  # type: ignore[arg-type]  # the keywords of plan


def attached(kept: StateKeeper, slot: int, flags: SequenceFlag = SequenceFlag.NONE) -> list[Tensor]:
    return kept.of(slot, flags, begins=False).attach(InferRequest("m")).inputs


def take(kept: StateKeeper, slot: int, answer: InferResponse) -> None:
    going_on(kept, slot).take(answer)


def going_on(kept: StateKeeper, slot: int) -> SequenceState:
    return kept.of(slot, SequenceFlag.NONE, begins=False)


def value(kept: StateKeeper, slot: int, flags: SequenceFlag = SequenceFlag.NONE) -> object:
    (tensor,) = attached(kept, slot, flags)
    return tensor.array.tolist()


def response(**outputs: object) -> InferResponse:
    tensors = [
        Tensor.from_array(name, np.array(array, np.int32)) for name, array in outputs.items()
    ]
    return InferResponse("m", "1", outputs=tensors)


def test_a_state_begins_as_zeros() -> None:
    (tensor,) = attached(keeper(state(dims="2, -1")), 0, START)

    assert (tensor.name, tensor.datatype, tensor.shape) == ("IN_S", "INT32", (1, 2, 1))
    assert not tensor.array.any()
    assert attached(keeper(state(), max_batch=0), 0, START)[0].shape == (2,)


def test_words_begin_empty() -> None:
    assert value(keeper(state(kind="TYPE_STRING")), 0, START) == [[b"", b""]]


def test_the_initial_state_decides_the_shape() -> None:
    kept = keeper(state(more=initial("zero_data: false", "3"), dims="-1"))

    assert value(kept, 0, START) == [[0, 0, 0]]


def test_a_file_holds_the_initial_state(tmp_path: Path) -> None:
    (tmp_path / "initial_state").mkdir()
    (tmp_path / "initial_state" / "f").write_bytes(np.array([4, 5, 6], np.int32).tobytes())
    kept = keeper(state(more=initial('data_file: "f"')), directory=tmp_path)

    assert value(kept, 0, START) == [[4, 5]]  # what is too much is left aside


def test_a_file_of_words_is_taken_whole(tmp_path: Path) -> None:
    (tmp_path / "initial_state").mkdir()
    file = tmp_path / "initial_state" / "f"
    file.write_bytes(b"\x01\0\0\0a\x02\0\0\0bc")
    words = state(more=initial('data_file: "f"', kind="TYPE_STRING"), kind="TYPE_STRING")

    assert value(keeper(words, directory=tmp_path), 0, START) == [[b"a", b"bc"]]
    file.write_bytes(b"\x01\0\0\0a")
    with pytest.raises(ServerError, match="does not hold 2 string elements"):
        keeper(words, directory=tmp_path)


def test_a_file_that_is_too_short_is_refused_at_load(tmp_path: Path) -> None:
    (tmp_path / "initial_state").mkdir()
    (tmp_path / "initial_state" / "f").write_bytes(b"12345")

    with pytest.raises(ServerError) as caught:
        keeper(state(more=initial('data_file: "f"')), directory=tmp_path)

    assert caught.value.status is StatusCode.INVALID_ARG
    assert caught.value.message == (
        "initial_state setting expects 8 bytes, but the data provided from fonly has 5 bytes."
    )


def test_a_file_that_is_missing_or_elsewhere_is_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="failed to open text file for read"):
        keeper(state(more=initial('data_file: "f"')), directory=tmp_path)
    with pytest.raises(ServerError, match="is outside"):
        keeper(state(more=initial('data_file: "../f"')), directory=tmp_path)


def test_a_response_carries_the_next_state_and_the_client_does_not_see_it() -> None:
    kept = keeper(state() + state("SHOWN", dims="1"))
    attached(kept, 0, START)
    answer = response(OUT=[[9]], S=[[1, 2]], SHOWN=[[3]])
    take(kept, 0, answer)

    assert [tensor.name for tensor in answer.outputs] == ["OUT", "SHOWN"]
    assert [one.array.tolist() for one in attached(kept, 0)] == [[[1, 2]], [[3]]]


def test_a_start_begins_anew_and_slots_have_their_own_states() -> None:
    kept = keeper(state())
    for slot in (0, 1):
        attached(kept, slot, START)
        take(kept, slot, response(S=[[slot + 1, 0]]))

    assert value(kept, 0) == [[1, 0]]
    assert value(kept, 1) == [[2, 0]]
    assert value(kept, 1, START) == [[0, 0]]
    assert value(kept, 0) == [[1, 0]]


def test_a_new_owner_begins_anew_though_its_start_is_missing() -> None:
    kept = keeper(state())
    attached(kept, 0, START)
    take(kept, 0, response(S=[[1, 2]]))

    (tensor,) = kept.of(0, SequenceFlag.NONE, begins=True).attach(InferRequest("m")).inputs
    assert not tensor.array.any()


def test_a_late_answer_to_the_last_owner_does_not_touch_the_next_one() -> None:
    kept = keeper(state())
    last = kept.of(0, START, begins=True)
    attached(kept, 0, START)
    last.take(response(S=[[1, 2]]))

    assert value(kept, 0) == [[0, 0]]


def test_shape_and_datatype_follow_the_output() -> None:
    kept = keeper(state(dims="-1"))
    attached(kept, 0, START)
    wide = Tensor.from_array("S", np.array([[1.5, 2.5, 3.5]], np.float32))
    take(kept, 0, InferResponse("m", "1", outputs=[wide]))
    (tensor,) = attached(kept, 0)

    assert (tensor.name, tensor.datatype, tensor.shape) == ("IN_S", "FP32", (1, 3))


def test_a_state_outlives_the_batch_it_was_part_of() -> None:
    kept = keeper(state())
    attached(kept, 0, START)
    batch = np.array([[1, 2], [3, 4]], np.int32)
    take(kept, 0, InferResponse("m", "1", outputs=[Tensor.from_array("S", batch[:1])]))
    batch[:] = 0

    assert value(kept, 0) == [[1, 2]]


def test_no_update_leaves_a_state_and_writing_into_it_is_not_possible() -> None:
    kept = keeper(state())
    attached(kept, 0, START)
    take(kept, 0, response(OUT=[[1]]))
    (tensor,) = attached(kept, 0)

    with pytest.raises(ValueError, match="read-only"):
        tensor.array[...] = 7
    take(kept, 0, response(S=[[5, 5]]))
    with pytest.raises(ValueError, match="read-only"):
        attached(kept, 0)[0].array[...] = 7


def test_one_buffer_for_input_and_output_shows_what_the_model_wrote_into_it() -> None:
    kept = keeper(state(more="use_same_buffer_for_input_output: true"))
    (buffer,) = attached(kept, 0, START)
    buffer.array[...] = 7

    assert value(kept, 0) == [[7, 7]]
    take(kept, 0, response(S=[[1, 2]]))
    assert attached(kept, 0)[0] is buffer
    assert value(kept, 0) == [[1, 2]]
    assert value(kept, 1, START) == [[0, 0]]
    assert value(kept, 0, START) == [[0, 0]]


def test_a_buffer_gives_way_to_another_size() -> None:
    kept = keeper(state(dims="-1", more="use_same_buffer_for_input_output: true"))
    attached(kept, 0, START)
    take(kept, 0, response(S=[[1, 2, 3]]))
    (buffer,) = attached(kept, 0)
    buffer.array[...] = 4

    assert value(kept, 0) == [[4, 4, 4]]


def test_a_backend_gets_its_states_though_nobody_asked_for_them() -> None:
    begun = keeper(state()).of(0, START, begins=True)
    asked = InferRequest("m", requested_outputs=("OUT",))

    assert begun.attach(asked).requested_outputs == ("OUT", "S")
    assert asked.requested_outputs == ("OUT",)
    assert not asked.inputs


def test_padding_has_states_of_its_neighbour_s_shapes() -> None:
    kept = keeper(state(dims="-1"))
    attached(kept, 0, START)
    take(kept, 0, response(S=[[1, 2, 3]]))
    beside = going_on(kept, 0).attach(InferRequest("m"))

    (tensor,) = kept.pad(InferRequest("m"), beside).inputs
    assert (tensor.name, tensor.array.tolist()) == ("IN_S", [[0, 0, 0]])


def test_without_states_requests_pass_as_they_are() -> None:
    kept = keeper("")
    asked = InferRequest("m")

    assert not kept.has_states
    assert kept.of(0, START, begins=True).attach(asked) is asked
    assert kept.pad(asked, asked) is asked


def test_the_first_entry_of_a_name_counts() -> None:
    assert [tensor.name for tensor in plan(state() + state() + state("T")).initial] == [
        "IN_S", "IN_T",
    ]  # fmt: skip


def test_a_backend_may_replace_a_state_by_its_name_only() -> None:
    kept = keeper(state())
    attached(kept, 0, START)
    request = ExecuteRequest(InferRequest("m"), 1, Silent(), states=going_on(kept, 0))
    request.update_state(Tensor.from_array("S", np.array([[8, 9]], np.int32)))

    assert value(kept, 0) == [[8, 9]]
    with pytest.raises(ServerError) as caught:
        request.update_state(Tensor.from_array("OUT", np.array([[8]], np.int32)))
    assert caught.value.message == "state 'OUT' is not a valid state name."
    stateless = ExecuteRequest(InferRequest("m"), 1, Silent())
    with pytest.raises(ServerError) as caught:
        stateless.update_state(Tensor.from_array("S", np.array([[8]], np.int32)))
    assert caught.value.message == (
        "unable to add state 'S'. State configuration is missing for model 'm'."
    )
    assert caught.value.status is StatusCode.INVALID_ARG


class Silent:
    """A sender that nobody listens to."""

    def send(self, outcome: object, *, final: bool) -> None:
        raise AssertionError("nothing is sent here")

    def is_cancelled(self) -> bool:
        return False
