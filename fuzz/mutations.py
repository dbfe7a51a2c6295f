"""What the byte-level fuzzers share: mutations of a corpus, the loop that tries them, and atheris.

A fuzzer brings `fuzz_one(data)`, which raises if its invariant does not hold, and a corpus.
"""

from __future__ import annotations

import argparse
import random  # noqa: TID251  # seeded; a fuzzer is no part of the server
import sys
import time  # noqa: TID251  # bounds the run
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

ROOT = Path(__file__).resolve().parent.parent

# Larger inputs reach no code that smaller ones do not, and slow the loop down.
MAX_INPUT_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Fuzzer:
    """One target. `tokens` are byte strings that mean something to it."""

    name: str
    fuzz_one: Callable[[bytes], None]
    tokens: Sequence[bytes]

    @property
    def corpus_directory(self) -> Path:
        return ROOT / "fuzz" / "corpus" / self.name

    def corpus(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.corpus_directory.iterdir())]


def mutated(
    data: bytes, pool: Sequence[bytes], tokens: Sequence[bytes], chance: random.Random
) -> bytes:
    """`data` with a few bytes changed, removed, repeated, or taken from elsewhere."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(changed) + 1)
        span = slice(at, at + chance.choice((1, 1, 2, 4, 16)))
        match chance.randrange(7):
            case 0:
                changed[at : at + 1] = bytes((chance.randrange(256),))
            case 1:
                changed[at:at] = chance.choice(tokens)
            case 2:
                changed[span] = chance.choice(tokens)
            case 3:
                del changed[span]
            case 4:
                changed[at:at] = changed[span] * chance.choice((1, 2, 100))
            case 5:
                other = chance.choice(pool)
                start = chance.randrange(len(other) + 1)
                changed[at:at] = other[start : start + chance.randint(1, 64)]
            case _:
                del changed[at:]
                changed += chance.choice(pool)
    return bytes(changed[:MAX_INPUT_BYTES])


def run_mutations(fuzzer: Fuzzer, *, seconds: float, seed: int) -> int:
    """Mutate the corpus for `seconds`; returns how many inputs were tried."""
    chance = random.Random(seed)
    pool = fuzzer.corpus()
    ends_at = time.monotonic() + seconds
    executions = 0
    while time.monotonic() < ends_at:
        data = mutated(chance.choice(pool), pool, fuzzer.tokens, chance)
        try:
            fuzzer.fuzz_one(data)
        except BaseException:
            print(f"seed {seed}, execution {executions}: {data!r}", file=sys.stderr)
            raise
        executions += 1
    return executions


def _product_functions() -> Iterator[FunctionType]:
    """Every function and method of the modules under test that have been imported."""
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] != "protocol" or "generated" in name:
            continue
        for member in vars(module).values():
            owned = getattr(member, "__module__", None) == name
            if owned and isinstance(member, FunctionType):
                yield member
            elif owned and isinstance(member, type):
                yield from (
                    each for each in vars(member).values() if isinstance(each, FunctionType)
                )


def main(fuzzer: Fuzzer, description: str | None) -> None:
    """The command line of a fuzzer."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the built-in mutations")
    options = parser.parse_args()
    try:
        import atheris  # type: ignore[import-untyped]  # it has no stubs
    except ImportError:
        executions = run_mutations(fuzzer, seconds=options.seconds, seed=options.seed)
        print(f"{executions} executions in {options.seconds} s, nothing found")
        return
    for function in _product_functions():  # all of numpy and json would take minutes
        atheris.instrument_func(function)
    limits = [f"-max_total_time={options.seconds}", f"-max_len={MAX_INPUT_BYTES}"]
    # libFuzzer writes what it discovers into the first directory, so that is not the corpus.
    discovered = ROOT / "build" / f"fuzz_{fuzzer.name}"
    discovered.mkdir(parents=True, exist_ok=True)
    directories = [str(discovered), str(fuzzer.corpus_directory)]
    atheris.Setup([sys.argv[0], *limits, *directories], fuzzer.fuzz_one)
    atheris.Fuzz()
