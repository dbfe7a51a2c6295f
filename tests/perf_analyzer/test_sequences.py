"""Sequences: ids, lengths, places in the data."""

from __future__ import annotations

from random import Random

from perf_analyzer.inputs import DataSet, Step
from perf_analyzer.sequences import SequenceOptions, Sequences, Turn

GENERATED = DataSet(((Step({}),),), generated=True)
THREE_STREAMS = DataSet((((Step({}),) * 4), ((Step({}),) * 3), ((Step({}),) * 2)))


def sequences(data: DataSet, slots: int, **options: object) -> Sequences:
    made = Sequences(data, SequenceOptions(**options), Random(3))  # type: ignore[arg-type]  # passed through
    made.widen(slots)
    return made


def whole(source: Sequences, slot: int) -> list[Turn]:
    """One sequence, from its start to its end."""
    turns = [source.next(slot)]
    while not turns[-1].ends:
        turns.append(source.next(slot))
    return turns


def test_a_sequence_has_one_id_a_start_and_an_end() -> None:
    source = sequences(GENERATED, 2, length=5, variation_percent=0.0)

    first, second, third = whole(source, 0), whole(source, 1), whole(source, 0)

    assert [turn.sequence_id for turn in first] == [1] * 5
    assert [turn.starts for turn in first] == [True, False, False, False, False]
    assert [turn.ends for turn in first] == [False, False, False, False, True]
    assert second[0].sequence_id == 2
    assert third[0].sequence_id == 3


def test_a_sequence_of_one_request_both_starts_and_ends() -> None:
    turn = sequences(GENERATED, 1, length=1, variation_percent=0.0).next(0)

    assert turn.starts
    assert turn.ends


def test_lengths_vary_by_the_percentage_around_twenty() -> None:
    source = sequences(GENERATED, 1)
    lengths = {len(whole(source, 0)) for _ in range(300)}

    assert min(lengths) >= 16
    assert max(lengths) <= 24
    assert len(lengths) > 5


def test_ids_stay_in_their_range_and_are_never_live_twice() -> None:
    source = sequences(GENERATED, 2, length=2, variation_percent=0.0, first_id=10, id_count=2)

    ids: list[int] = []
    for _ in range(5):
        both = source.next(0).sequence_id, source.next(1).sequence_id
        assert len(set(both)) == 2
        ids += both
        source.next(0)
        source.next(1)

    assert set(ids) == {10, 11}


def test_sequences_take_the_length_of_their_stream() -> None:
    source = sequences(THREE_STREAMS, 1)

    for _ in range(20):
        turns = whole(source, 0)
        assert len(turns) == (4, 3, 2)[turns[0].stream]
        assert [turn.step for turn in turns] == list(range(len(turns)))


def test_a_given_length_wraps_round_the_stream() -> None:
    source = sequences(THREE_STREAMS, 1, length=6, variation_percent=0.0)

    turns = whole(source, 0)

    steps = (4, 3, 2)[turns[0].stream]
    assert [turn.step for turn in turns] == [place % steps for place in range(6)]


def test_a_live_sequence_can_be_ended_early() -> None:
    source = sequences(GENERATED, 1, length=9, variation_percent=0.0)
    source.next(0)

    assert source.live(0)
    assert source.last(0).ends
    assert not source.live(0)
    assert source.next(0).starts
