"""The corpora of the HTTP/2 and HPACK fuzzers, and some seeded mutations of them."""

from __future__ import annotations

import random

import pytest

from fuzz import fuzz_hpack, fuzz_http2
from fuzz.mutations import Fuzzer, mutated

CASES = [
    (fuzzer, path.name)
    for fuzzer in (fuzz_http2.FUZZER, fuzz_hpack.FUZZER)
    for path in sorted(fuzzer.corpus_directory.iterdir())
]


@pytest.mark.parametrize(("fuzzer", "name"), CASES, ids=lambda part: getattr(part, "name", part))
def test_corpus(fuzzer: Fuzzer, name: str) -> None:
    fuzzer.fuzz_one((fuzzer.corpus_directory / name).read_bytes())


@pytest.mark.parametrize("fuzzer", [fuzz_http2.FUZZER, fuzz_hpack.FUZZER], ids=["http2", "hpack"])
def test_mutations(fuzzer: Fuzzer) -> None:
    chance = random.Random(1)
    pool = fuzzer.corpus()
    for _ in range(500):
        fuzzer.fuzz_one(mutated(chance.choice(pool), pool, fuzzer.tokens, chance))


def test_an_input_of_every_kind_reaches_the_frontend() -> None:
    """The corpus would be worthless if its inputs were refused at the first frame."""
    told = {
        step[0]
        for data in fuzz_http2.FUZZER.corpus()
        for step in fuzz_http2._seen(data, [len(data)])
    }
    assert told == {
        "opened", "message", "half-closed", "request", "closed",
        "CallReset", "GoAwayReceived", "PingAcked",
    }  # fmt: skip
