"""Cases 41 and 42 of scheduling: ragged batches, the tensors about them, and how to cut them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from actors.settings.options import ServerOptions
from protocol.inference import InferResponse, Tensor
from repo.backends.base import ExecuteRequest, Outcome
from repo.batch_tensors import batch_input, scatter
from repo.model_config import BatchingSettings
from simulation.world import SimulatedModel, World
from tests.simulation.rig import model_config

RAGGED = model_config(
    BatchingSettings(8, (4,), max_queue_delay_seconds=100), input_more="allow_ragged_batch: true"
)
LENGTHS = (2, 4, 1, 3)


def shapes(requests: Sequence[ExecuteRequest]) -> list[tuple[int, ...]]:
    return [request.request.inputs[0].shape for request in requests]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_41_requests_of_all_lengths_share_a_batch_that_can_be_described_and_cut(
    dtype: type[np.int32 | np.float32],
) -> None:
    """A ragged identity: what backends do with the batch is done here in the model's place."""
    seen: dict[str, list[object]] = {}

    def identity(requests: Sequence[ExecuteRequest]) -> Sequence[Outcome]:
        kinds = (
            "BATCH_ELEMENT_COUNT",
            "BATCH_ACCUMULATED_ELEMENT_COUNT",
            "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
            "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
            "BATCH_ITEM_SHAPE",
            "BATCH_ITEM_SHAPE_FLATTEN",
        )
        for kind in kinds:
            tensor = batch_input(kind, dtype, shapes(requests))
            assert tensor.dtype == dtype
            seen[kind] = tensor.tolist()
        flat = np.concatenate([one.request.inputs[0].array.ravel() for one in requests])
        return [
            InferResponse(
                "m", "1", one.request.id, [Tensor.from_array("INPUT", part.reshape(shape))]
            )
            for one, shape, part in zip(
                requests,
                shapes(requests),
                scatter(flat, [-1, -1], shapes(requests)),
                strict=True,
            )
        ]

    async def scenario(world: World) -> None:
        client = world.client()
        for length in LENGTHS:
            client.ask("m", f"r{length}", dims=(length,))
        await world.all_answered()
        for length in LENGTHS:
            # Its content, which is its own, is compared by the client.
            assert client.responses[f"r{length}"][0].outputs[0].shape == (1, length)

    trace = World({"m": SimulatedModel(RAGGED, together=identity)}).run(scenario)

    assert trace.batches() == [(0.0, 4)]
    # The two accumulating kinds are 42 as well: INT32 and FP32 give the same numbers.
    assert seen == {
        "BATCH_ELEMENT_COUNT": [2, 4, 1, 3],
        "BATCH_ACCUMULATED_ELEMENT_COUNT": [2, 6, 7, 10],
        "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO": [0, 2, 6, 7, 10],
        "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE": [0, 0, 0, 0],
        "BATCH_ITEM_SHAPE": [[2], [4], [1], [3]],
        "BATCH_ITEM_SHAPE_FLATTEN": [2, 4, 1, 3],
    }


@pytest.mark.parametrize(
    ("data_type", "reason"),
    [
        ("TYPE_INT32", ""),
        ("TYPE_FP32", ""),
        ("TYPE_INT64", "batch input data type must be TYPE_INT32 or TYPE_FP32 for m"),
    ],
)
def test_42_a_batch_input_is_int32_or_fp32(data_type: str, reason: str) -> None:
    config = RAGGED + (
        ' batch_input { kind: BATCH_ELEMENT_COUNT target_name: "COUNT" source_input: "INPUT" '
        f"data_type: {data_type} }}"
    )
    options = ServerOptions(model_repository=("simulated",), exit_on_error=False)

    async def scenario(world: World) -> None:
        (row,) = world.core.control_plane.index_rows(ready_only=False)
        assert reason in str(row.get("reason", ""))
        assert (row.get("state") == "READY") == (not reason)

    expected = ("Poll failed for model 'm'",) if reason else ()
    World({"m": SimulatedModel(config)}, options=options, expected_errors=expected).run(scenario)
