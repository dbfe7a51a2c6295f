"""Who may load at the same time."""

from __future__ import annotations

from actors.policy.load_admission import RESERVE_BYTES, LoadAdmission

GB = 1 << 30


def test_threads_are_the_limit_while_memory_is_plenty() -> None:
    admission = LoadAdmission(2)

    assert admission.may_begin(1, 100 * GB)
    admission.begin(1)
    assert admission.may_begin(1, 100 * GB)
    admission.begin(1)
    assert not admission.may_begin(1, 100 * GB)
    admission.end(1)
    assert admission.may_begin(1, 100 * GB)


def test_a_load_waits_where_it_would_take_from_the_reserve() -> None:
    admission = LoadAdmission(4)
    admission.begin(2 * GB)

    assert admission.may_begin(GB, 3 * GB + RESERVE_BYTES)
    assert not admission.may_begin(GB, 3 * GB + RESERVE_BYTES - 1)
    admission.end(2 * GB)
    admission.begin(0)
    assert admission.may_begin(GB, GB + RESERVE_BYTES)


def test_one_load_may_always_run() -> None:
    admission = LoadAdmission(4)

    assert admission.may_begin(100 * GB, 0)
    admission.begin(100 * GB)
    assert not admission.may_begin(0, 100 * GB)


def test_where_nobody_knows_memory_is_no_limit() -> None:
    admission = LoadAdmission(4)
    admission.begin(100 * GB)

    assert admission.may_begin(100 * GB, None)


def test_there_is_always_one_thread() -> None:
    assert LoadAdmission(0).may_begin(1, 0)
    assert LoadAdmission(-3).may_begin(1, 0)
