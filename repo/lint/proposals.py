"""What to write instead: a proposal for each refusal that leaves little choice.

Owns the wording of proposals. They never decide anything: `Problem.edit` alone changes files.
"""

from __future__ import annotations

import re
from typing import Final

from repo.config_text.schema import nearest
from repo.model_config import ModelConfig
from repo.refusals import ConfigRefusal

_ALLOWED: Final = re.compile(r"allowed (?:in|out)puts are: (.*)")
_PROVIDES: Final = re.compile(r"model provides (TYPE_\w+)")

# By the field that is refused; the first that fits counts.
_BY_FIELD: Final = (
    (r"max_batch_size", "write max_batch_size: 0, or the size up to which the model batches"),
    (
        r".*preferred_batch_size\[\d+\]",
        "write sizes from 1 to max_batch_size ({max_batch_size}), or raise it",
    ),
    (r".*default_priority_level", "write a level that exists; 1 is the highest"),
    (r".*priority_queue_policy.*", "raise priority_levels, or drop this policy"),
    (r".*reshape.*", "let reshape have as many elements as dims"),
    (r".*\.(dims|shape)\[\d+\]", "write -1 for a size that varies"),
    (r".*\.format", "write FORMAT_NONE, or three dims"),
    (r".*is_(shape_tensor|non_linear_format_io)", "drop it: only TensorRT models have it"),
    (r".*_false_true", "write two values, such as [ 0, 1 ]"),
    (r"sequence_batching\..*\.control\[\d+\]", "write int32_false_true: [ 0, 1 ]"),
    (r".*minimum_slot_utilization", "write a share from 0 to 1"),
    (r"response_cache\.enable", "drop response_cache"),
    (r"instance_group\[\d+\]\.gpus.*", "write kind: KIND_GPU, or drop gpus"),
    (r"instance_group\[\d+\]\.profile.*", "drop profile: only TensorRT models have it"),
    (r"instance_group\[\d+\]\.kind", "write kind: KIND_CPU, or KIND_AUTO for either"),
    (r"(instance_group|model_warmup)\[0\]|optimization", "drop it: each member has its own"),
    (r"model_metrics.*", "write histogram_options {{ buckets: [ 1, 5, 10 ] }}"),
    (r"default_model_filename|cc_model_filenames.*", "write a name inside the version directory"),
    (r"(in|out)put\[\d+\]\.data_type", "write data_type: TYPE_FP32, or what the model takes"),
    (r"(in|out)put\[\d+\]\.dims", "write dims without the batch dimension, such as [ -1 ]"),
    (r"(in|out)put\[\d+\]\.name", "write a name that a step maps, or drop it"),
)  # fmt: skip


def proposal(refusal: ConfigRefusal, config: ModelConfig) -> str:
    """One sentence that says what would be accepted; "" where there is no telling."""
    expected = refusal.expected
    if expected is not None and refusal.field.endswith(".dims"):
        return f"write dims: [ {', '.join(map(str, expected.sizes))} ]"
    if expected is not None and refusal.field == "max_batch_size":
        return "write max_batch_size: 0, and dims with the batch dimension"
    if "must specify 'name'" in refusal.message:
        return 'write name: "...", as the model calls it'
    provided = _PROVIDES.search(refusal.message)
    if provided is not None and refusal.field.endswith(".data_type"):
        return f"write data_type: {provided[1]}"
    allowed = _ALLOWED.search(refusal.message)
    if allowed is not None:
        names = allowed[1].split(", ")
        wrong = refusal.message.split("'")[1]
        near = nearest(wrong, names) or (names[0] if len(names) == 1 else "")
        return f'write name: "{near}"' if near else ""
    for pattern, text in _BY_FIELD:
        if re.fullmatch(pattern, refusal.field):
            return text.format(max_batch_size=config.max_batch_size)
    return ""
