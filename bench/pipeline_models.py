"""The models of pipelines: a step that computes nothing, and an ensemble of three of it."""

from __future__ import annotations

from collections.abc import Mapping

_KIND = "data_type: TYPE_FP32 dims: [ 1 ]"


def noop_models(output: str) -> Mapping[str, str]:
    """The configurations of `step` and `chain`.

    Both take INPUT. A step gives `output`, as whoever brings the backend `noop` names what it gives
    back; the chain gives OUTPUT.
    """

    def step(source: str, target: str) -> str:
        return (
            'step { model_name: "step" model_version: -1 '
            f'input_map {{ key: "INPUT" value: "{source}" }} '
            f'output_map {{ key: "{output}" value: "{target}" }} }}'
        )

    return {
        "step": f"""
            backend: "noop" max_batch_size: 8 instance_group {{ kind: KIND_CPU }}
            input {{ name: "INPUT" {_KIND} }} output {{ name: "{output}" {_KIND} }}
        """,
        "chain": f"""
            platform: "ensemble" max_batch_size: 8
            input {{ name: "INPUT" {_KIND} }} output {{ name: "OUTPUT" {_KIND} }}
            ensemble_scheduling {{
              {step("INPUT", "a")} {step("a", "b")} {step("b", "OUTPUT")}
            }}
        """,
    }
