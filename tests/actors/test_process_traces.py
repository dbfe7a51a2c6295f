"""What a model.py knows of its request's trace, and how its calls become part of it."""

from __future__ import annotations

from pathlib import Path

from protocol.tracing import Trace, TraceGroup
from tests.actors.process_rig import HEAD, model_spec, running
from tests.actors.test_process_executor_calls import Models

MODEL = """
def execute(self, requests):
    responses = []
    for request in requests:
        trace = request.trace()
        context = trace.get_context()
        for more in ({}, {"trace": trace}, {"trace": self.early} if self.early else {}):
            call = pb_utils.InferenceRequest(
                inputs=[pb_utils.Tensor("IN", np.array([1], np.int32))],
                requested_output_names=["OUT"], model_name="other", **more)
            call.exec()
        self.early = self.early or trace
        responses.append(answer(np.array([str(context)], np.object_)))
    return responses

early = None
"""
CONTEXT = '{"traceparent":"00-0000000000000000000000000000002a-0000000000000007-01"}'


def traced(number: int, trace_id: int) -> Trace:
    group = TraceGroup(timestamps=True, budget=None, trace_id=trace_id, span_id=6)
    return Trace(
        number,
        group,
        None,
        model_name="m",
        model_version=1,
        request_id="",
        span_id=7,
        clock=lambda: 0.0,
    )


async def test_a_model_can_pass_on_its_trace_s_context(tmp_path: Path) -> None:
    models = Models()
    async with running(model_spec(tmp_path, MODEL, head=HEAD), bls=models) as rig:
        told = [
            await rig.infer([1]),
            await rig.infer([1], trace=traced(3, 0)),
            await rig.infer([1], trace=traced(4, 42)),
        ]
    assert told == [[b"None"], [b"None"], [CONTEXT.encode()]]


async def test_its_calls_are_part_of_a_trace_that_it_names(tmp_path: Path) -> None:
    models = Models()
    async with running(model_spec(tmp_path, MODEL, head=HEAD), bls=models) as rig:
        for _ in range(2):
            await rig.infer([1])
        first, second = traced(3, 0), traced(4, 0)
        await rig.infer([1], trace=first)
        await rig.infer([1], trace=second)
        carried = [asked.trace for asked in models.asked]
    assert carried == [None] * 6 + [None, first, None] + [None, second, None]
