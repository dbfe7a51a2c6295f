"""The corpus of the REST body fuzzer, and a few thousand seeded mutations of it."""

from __future__ import annotations

import random

import pytest

from fuzz.fuzz_v2_json import FUZZER
from fuzz.mutations import mutated


@pytest.mark.parametrize("name", sorted(path.name for path in FUZZER.corpus_directory.iterdir()))
def test_corpus(name: str) -> None:
    FUZZER.fuzz_one((FUZZER.corpus_directory / name).read_bytes())


def test_mutations() -> None:
    chance = random.Random(1)
    pool = FUZZER.corpus()
    for _ in range(3000):
        FUZZER.fuzz_one(mutated(chance.choice(pool), pool, FUZZER.tokens, chance))
