"""The names of a .pt2 model's tensors, from the call specifications in its package.

Owns what `ARGS[0]`, `KWARGS[key]`, `RESULT[key][1]`, `INPUT__0` and `OUTPUT__0` mean. A
specification is JSON: `[version, node]`. It never imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from protocol.status import internal
from repo.backends.pytorch_naming import (
    Plan,
    all_inputs,
    all_outputs,
    check_allowed,
    check_count,
    check_tensors,
    in_order,
)
from repo.model_config import ModelConfig

# A node of a call specification: {"type": …, "context": …, "children_spec": […]}; a leaf has no
# type. The context of a dictionary is its list of keys, as JSON text.
_Node = dict[str, object]


def plan_call_spec(config: ModelConfig, in_spec: str, out_spec: str) -> Plan:
    """The plan of a .pt2 model, from the JSON of its two call specifications.

    Raises ServerError INTERNAL or INVALID_ARG.
    """
    given = _argument_names(json.loads(in_spec)[1])
    returned = [f"RESULT{suffix}" for suffix in _leaves(json.loads(out_spec)[1])]
    inputs = _with_ordinals(given, "INPUT")
    outputs = _with_ordinals(returned, "OUTPUT")
    check_count(config, len(given))
    check_tensors(config, strings=False)
    places = {}
    for name in all_inputs(config):
        check_allowed(name, inputs, "input")
        places[name] = inputs[name]
    for name in all_outputs(config):
        check_allowed(name, outputs, "output")
    results = {name: outputs[name] for name in all_outputs(config)}
    return Plan(in_order(config, places, len(given)), results)


def _argument_names(node: _Node) -> list[str]:
    """`ARGS[0]`, `ARGS[1][key]`, `KWARGS[key]`, …: every tensor of a call, in its order."""
    children = _children(node)
    if len(children) != 2:
        raise internal(f"a call specification has arguments and keywords, got {len(children)}")
    arguments, keywords = children
    return [f"ARGS{suffix}" for suffix in _leaves(arguments)] + [
        f"KWARGS{suffix}" for suffix in _leaves(keywords)
    ]


def _leaves(node: _Node) -> list[str]:
    """How each tensor under a node is reached from it; the node itself if it is one."""
    kind = node.get("type")
    match kind:
        case None:
            return [""]
        case "builtins.tuple" | "builtins.list":
            steps: list[object] = list(range(len(_children(node))))
        case "builtins.dict":
            context = node.get("context")
            steps = json.loads(context) if isinstance(context, str) else []
        case _:
            raise internal(
                f"a model's tensors may stand in tuples, lists and dictionaries, got '{kind}'"
            )
    return [
        f"[{step}]{suffix}"
        for step, child in zip(steps, _children(node), strict=True)
        for suffix in _leaves(child)
    ]


def _children(node: _Node) -> list[_Node]:
    children = node.get("children_spec")
    return children if isinstance(children, list) else []


def _with_ordinals(names: Sequence[str], word: str) -> dict[str, int]:
    """Every name, and `<word>__<place>` beside it."""
    places = {name: place for place, name in enumerate(names)}
    return places | {f"{word}__{place}": place for place in range(len(names))}
