"""The fuzzer's invariants hold for its corpus, and its loop runs."""

from __future__ import annotations

import pytest

from fuzz.fuzz_pbtxt import FUZZER, fuzz_one
from fuzz.mutations import run_mutations


@pytest.mark.parametrize("data", FUZZER.corpus())
def test_the_corpus_passes(data: bytes) -> None:
    fuzz_one(data)


def test_mutations_pass() -> None:
    assert run_mutations(FUZZER, seconds=0.2, seed=1) > 0
