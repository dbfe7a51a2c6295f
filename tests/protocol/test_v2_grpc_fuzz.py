"""The corpus of the message fuzzer, and a few thousand seeded mutations of it."""

from __future__ import annotations

import random

import pytest

from fuzz.fuzz_grpc_messages import CORPUS, corpus, fuzz_one, mutated


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
def test_corpus(name: str) -> None:
    fuzz_one((CORPUS / name).read_bytes())


def test_mutations() -> None:
    chance = random.Random(1)
    pool = corpus()
    for _ in range(3000):
        fuzz_one(mutated(chance.choice(pool), pool, chance))
