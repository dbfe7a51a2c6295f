"""Fuzz the gRPC message codec: `python fuzz/fuzz_grpc_messages.py --seconds 60`.

Invariants: whatever a client sends, decoding returns or raises ServerError, nothing else; what
protobuf calls malformed is INTERNAL, and what it accepts means the same to us, in every form of
buffer and whether its description is remembered or not; inflating stays within its limit.

Uses atheris when it is installed, else a loop that mutates the corpus.
"""

from __future__ import annotations

import argparse
import random  # noqa: TID251  # seeded below; a fuzzer is no part of the server
import sys
import time  # noqa: TID251  # bounds the run
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # so that it also runs as a script

from google.protobuf.message import DecodeError  # noqa: E402

from protocol.grpc_compression import decompress  # noqa: E402
from protocol.grpc_service import routes  # noqa: E402
from protocol.proto.generated import inference  # noqa: E402
from protocol.proto.messages import ModelInferRequest  # noqa: E402
from protocol.status import ServerError, StatusCode  # noqa: E402
from protocol.v2_grpc import decode_infer_request  # noqa: E402

CORPUS = ROOT / "fuzz" / "corpus" / "grpc_messages"

# Larger inputs reach no code that smaller ones do not, and slow the loop down.
MAX_INPUT_BYTES = 16_384
INFLATED_LIMIT = 65_536

_ROUTES = list(routes([inference.GrpcInferenceServiceBase()]).values())

# Bytes that mean something in a request: tags, lengths and the ends of varints.
_TELLING = bytes((0x00, 0x01, 0x07, 0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x7F, 0x80, 0xFF))

Outcome = tuple[object, ...]


def fuzz_one(data: bytes) -> None:
    """Feed one input to every decoder; raises if an invariant does not hold."""
    outcomes = [_outcome(form) for form in (data, bytearray(data), memoryview(data), data)]
    assert all(outcome == outcomes[0] for outcome in outcomes), "the form of a buffer matters"
    _compare(data, outcomes[0])
    if not data:
        return
    route = _ROUTES[data[0] % len(_ROUTES)]
    try:
        route.decode(data[1:])
    except ServerError as error:
        assert error.status is StatusCode.INTERNAL  # noqa: PT017  # either outcome is right
    for encoding in ("gzip", "deflate"):
        try:
            assert len(decompress(data, encoding, INFLATED_LIMIT)) <= INFLATED_LIMIT
        except ServerError:
            continue


def _outcome(data: bytes | bytearray | memoryview) -> Outcome:
    try:
        decoded = decode_infer_request(data)
    except ServerError as error:
        return (error.status, error.message)
    request = decoded.request
    tensors = [(t.name, t.datatype, t.shape, bytes(t.raw)) for t in request.inputs]
    rest = (request.model_version, request.correlation_id, repr(request.parameters))
    return (request.model_name, request.id, tensors, rest, decoded.plan, decoded.empty_final)


def _compare(data: bytes, outcome: Outcome) -> None:
    try:
        expected = ModelInferRequest.FromString(data)
    except DecodeError:
        assert outcome == (StatusCode.INTERNAL, "Exception deserializing request!")
        return
    if isinstance(outcome[0], StatusCode):
        assert outcome[0] in {StatusCode.INVALID_ARG, StatusCode.NOT_FOUND}, outcome
        return
    model_name, request_id, tensors = outcome[:3]
    assert (model_name, request_id) == (expected.model_name, expected.id)
    assert isinstance(tensors, list)
    described = [(each.name, each.datatype, tuple(each.shape)) for each in expected.inputs]
    assert [tensor[:3] for tensor in tensors] == described
    if expected.raw_input_contents:
        assert [tensor[3] for tensor in tensors] == list(expected.raw_input_contents)


def corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def mutated(data: bytes, pool: list[bytes], chance: random.Random) -> bytes:
    """`data` with a few bytes changed, removed, doubled or taken from another input."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        span = slice(at, at + chance.randint(1, 8))
        match chance.randrange(6):
            case 0:
                changed[at : at + 1] = bytes((chance.randrange(256),))
            case 1:
                changed[at : at + 1] = bytes((chance.choice(_TELLING),))
            case 2:
                del changed[span]
            case 3:
                changed[at:at] = changed[span]
            case 4:
                other = chance.choice(pool)
                start = chance.randrange(len(other) + 1)
                changed[at:at] = other[start : start + chance.randint(1, 64)]
            case _:
                del changed[at:]
                changed += chance.choice(pool)
    return bytes(changed[:MAX_INPUT_BYTES])


def run_mutations(seconds: float, seed: int) -> int:
    """Mutate the corpus for `seconds`; returns how many inputs were tried."""
    chance = random.Random(seed)
    pool = corpus()
    ends_at = time.monotonic() + seconds
    executions = 0
    while time.monotonic() < ends_at:
        data = mutated(chance.choice(pool), pool, chance)
        try:
            fuzz_one(data)
        except BaseException:
            print(f"seed {seed}, execution {executions}: {data!r}", file=sys.stderr)
            raise
        executions += 1
    return executions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the built-in mutations")
    options = parser.parse_args()
    try:
        import atheris  # type: ignore[import-untyped]  # it has no stubs
    except ImportError:
        executions = run_mutations(options.seconds, options.seed)
        print(f"{executions} executions in {options.seconds} s, nothing found")
        return
    atheris.instrument_all()
    limits = [f"-max_total_time={options.seconds}", f"-max_len={MAX_INPUT_BYTES}"]
    # libFuzzer writes what it discovers into the first directory, so that is not the corpus.
    discovered = ROOT / "build" / "fuzz_grpc_messages"
    discovered.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], *limits, str(discovered), str(CORPUS)], fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
