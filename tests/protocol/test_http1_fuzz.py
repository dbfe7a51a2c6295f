"""The corpus of the HTTP/1.1 fuzzer, and some seeded mutations of it."""

from __future__ import annotations

import random

import pytest

from fuzz.fuzz_http1 import FUZZER
from fuzz.mutations import mutated, run_mutations


@pytest.mark.parametrize("name", sorted(path.name for path in FUZZER.corpus_directory.iterdir()))
def test_corpus(name: str) -> None:
    FUZZER.fuzz_one((FUZZER.corpus_directory / name).read_bytes())


def test_mutations() -> None:
    chance = random.Random(1)
    pool = FUZZER.corpus()
    for _ in range(1000):
        FUZZER.fuzz_one(mutated(chance.choice(pool), pool, FUZZER.tokens, chance))


def test_a_finding_is_told_with_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(data: bytes) -> None:
        raise ValueError(f"found in {data!r}")

    broken = type(FUZZER)(FUZZER.name, fail, FUZZER.tokens)
    with pytest.raises(ValueError, match="found"):
        run_mutations(broken, seconds=1.0, seed=5)
    assert capsys.readouterr().err.startswith("seed 5, execution 0: b")
