"""Defaults are filled where Triton shows them, once, and never over what a file says."""

from __future__ import annotations

import betterproto
import pytest

from repo.model_config import ModelConfig, dynamic_batching, is_set, sequence_batching
from repo.normalise import normalise
from repo.pbtxt import parse_config


def _normal(text: str) -> ModelConfig:
    return normalise(parse_config(text, "x"))


def test_the_latest_version_is_served_by_default() -> None:
    assert _normal("").version_policy.latest.num_versions == 1
    policy = _normal("version_policy { all { } }").version_policy
    assert betterproto.which_one_of(policy, "policy_choice")[0] == "all"


def test_an_empty_batcher_prefers_the_largest_batch() -> None:
    batching = dynamic_batching(_normal("max_batch_size: 8 dynamic_batching { }"))
    assert batching is not None
    assert list(batching.preferred_batch_size) == [8]

    batching = dynamic_batching(
        _normal("max_batch_size: 8 dynamic_batching { preferred_batch_size: 4 }")
    )
    assert batching is not None
    assert list(batching.preferred_batch_size) == [4]

    batching = dynamic_batching(_normal("dynamic_batching { }"))
    assert batching is not None
    assert not batching.preferred_batch_size


def test_sequences_have_an_idle_time_and_a_preferred_size() -> None:
    sequence = sequence_batching(_normal("max_batch_size: 8 sequence_batching { oldest { } }"))
    assert sequence is not None
    assert sequence.max_sequence_idle_microseconds == 1_000_000
    assert list(sequence.oldest.preferred_batch_size) == [8]

    sequence = sequence_batching(
        _normal("sequence_batching { max_sequence_idle_microseconds: 5 direct { } }")
    )
    assert sequence is not None
    assert sequence.max_sequence_idle_microseconds == 5


def test_pinned_memory_is_used_unless_forbidden() -> None:
    optimization = _normal("optimization { input_pinned_memory { enable: false } }").optimization

    assert not optimization.input_pinned_memory.enable
    assert is_set(optimization.input_pinned_memory)
    assert optimization.output_pinned_memory.enable


def test_an_ensemble_gets_no_optimization() -> None:
    assert not is_set(_normal('platform: "ensemble" ensemble_scheduling { }').optimization)


@pytest.mark.parametrize(
    "text", ["", "max_batch_size: 2 dynamic_batching { }", "sequence_batching { oldest { } }"]
)
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = _normal(text)

    assert bytes(normalise(once)) == bytes(once)


def test_the_given_configuration_is_left_alone() -> None:
    config = parse_config("max_batch_size: 2 dynamic_batching { }", "x")
    before = bytes(config)
    normalise(config)

    assert bytes(config) == before
