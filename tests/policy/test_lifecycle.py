"""What a load means for what is loaded already, by literal timestamps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.policy.lifecycle import Lifecycle, LoadPlan, reconcile
from repo.instance_groups import DeviceTable, InstanceSpec
from repo.pbtxt import parse_config
from repo.preparation import ModelDescription, ModelFiles, prepare
from repo.scan import ModelIdentity, ModelTimestamps, Sighting

ALL = "version_policy { all { } }"
FILES = {"1": 5, "2": 5, "config.pbtxt": 5, "labels.txt": 5}
OVERRIDE = {"config": '{"max_batch_size": 4}'}


def seen(path: str = "/r/m", **changes: int) -> Sighting:
    """A look at a model whose entries changed when `changes` says, with `_` for dots."""
    entries = FILES | {name.strip("_").replace("_", "."): at for name, at in changes.items()}
    return Sighting(ModelIdentity("", "m"), path, ModelTimestamps(5, entries))


def described(
    more: str = ALL, sighting: Sighting | None = None, given_config: str | None = None
) -> ModelDescription:
    config = parse_config(
        f'backend: "b" max_batch_size: 1 {more} '
        'input { name: "I" data_type: TYPE_FP32 dims: 1 } '
        'output { name: "O" data_type: TYPE_FP32 dims: 1 }',
        "m",
    )
    files = ModelFiles(Path("/r/m"), ("1", "2"))
    description = prepare(config, files, devices=DeviceTable(), complete=None)
    return replace(description, seen=sighting or seen(), given_config=given_config)


def loaded(description: ModelDescription) -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.remember(description)
    return lifecycle


def test_a_loaded_model_whose_files_are_as_they_were_is_current() -> None:
    lifecycle = loaded(described())

    assert lifecycle.is_current("m", {}, seen(), [1, 2])
    assert not lifecycle.is_current("other", {}, seen(), [1, 2])


@pytest.mark.parametrize("sighting", [seen(_1=6), seen(config_pbtxt=6), seen(new=6)])
def test_anything_newer_than_all_there_was_is_a_change(sighting: Sighting) -> None:
    lifecycle = loaded(described())

    assert not lifecycle.is_current("m", {}, sighting, [1, 2])
    assert lifecycle.is_news("m", sighting)


def test_a_change_that_is_not_newer_is_none() -> None:
    lifecycle = loaded(described())

    assert lifecycle.is_current("m", {}, seen(_1=4, labels_txt=3), [1, 2])
    assert lifecycle.is_current("m", {}, seen(new=5), [1, 2])


def test_a_model_that_moved_is_another_one() -> None:
    assert not loaded(described()).is_current("m", {}, seen("/s/m"), [1, 2])


def test_an_unreadable_part_is_no_change() -> None:
    unreadable = Sighting(ModelIdentity("", "m"), "/r/m", ModelTimestamps())

    assert loaded(described()).is_current("m", {}, unreadable, [1, 2])


def test_a_version_that_is_gone_makes_a_load_do_something() -> None:
    lifecycle = loaded(described())

    assert not lifecycle.is_current("m", {}, seen(), [1])
    assert not lifecycle.is_news("m", seen())  # a poll does not restart what has crashed


def test_a_configuration_with_the_request_is_always_a_change() -> None:
    assert not loaded(described()).is_current("m", OVERRIDE, seen(), [1, 2])


def test_a_request_s_configuration_lasts_until_files_change() -> None:
    lifecycle = loaded(described(given_config=OVERRIDE["config"]))

    assert lifecycle.is_current("m", {}, seen(), [1, 2])
    assert lifecycle.parameters("m", {}, seen()) == OVERRIDE
    assert lifecycle.parameters("m", {}, seen(labels_txt=6)) == {}
    assert lifecycle.parameters("m", {"config": "{}"}, seen()) == {"config": "{}"}
    lifecycle.forget("m")
    assert lifecycle.parameters("m", {}, seen()) == {}


def test_what_failed_is_not_remembered() -> None:
    assert Lifecycle().is_news("m", seen())
    assert not Lifecycle().is_current("m", {}, seen(), [])


def test_files_of_a_request_are_forgotten_by_the_next_load() -> None:
    lifecycle = loaded(replace(described(), seen=None))

    assert not lifecycle.is_current("m", {}, seen(), [1, 2])
    assert lifecycle.plan(described(), [1, 2]) == LoadPlan((1, 2), ())


def test_other_instance_groups_update_what_runs() -> None:
    lifecycle = loaded(described())
    new = described(ALL + " instance_group { count: 3 kind: KIND_CPU }", seen(config_pbtxt=6))

    assert lifecycle.plan(new, [1, 2]) == LoadPlan((), (1, 2))


def test_another_version_policy_loads_and_drops_just_those() -> None:
    lifecycle = loaded(described("version_policy { specific { versions: 1 } }"))

    everything = described(ALL, seen(config_pbtxt=6))
    assert lifecycle.plan(everything, [1]) == LoadPlan((2,), (1,))
    latest = described("version_policy { latest { num_versions: 1 } }", seen(config_pbtxt=6))
    assert lifecycle.plan(latest, [1]) == LoadPlan((2,), ())


def test_another_setting_reloads() -> None:
    new = described(ALL + " dynamic_batching { }", seen(config_pbtxt=6))

    assert loaded(described()).plan(new, [1, 2]) == LoadPlan((1, 2), ())


@pytest.mark.parametrize(
    ("sighting", "plan"),
    [
        (seen(_1=6), LoadPlan((1,), (2,))),
        (seen(labels_txt=6), LoadPlan((1, 2), ())),
        (seen(_config_pbtxt_swp=6), LoadPlan((1, 2), ())),
        (seen("/s/m"), LoadPlan((1, 2), ())),
    ],
)
def test_changed_files_reload_the_versions_that_may_read_them(
    sighting: Sighting, plan: LoadPlan
) -> None:
    assert loaded(described()).plan(described(sighting=sighting), [1, 2]) == plan


def test_an_ensemble_is_always_made_anew() -> None:
    text = (
        'platform: "ensemble" input { name: "I" data_type: TYPE_FP32 dims: 1 } '
        'output { name: "O" data_type: TYPE_FP32 dims: 1 } '
        'ensemble_scheduling { step { model_name: "a" model_version: -1 '
        'input_map { key: "I" value: "I" } output_map { key: "O" value: "O" } } }'
    )
    config = parse_config(text, "m")
    files = ModelFiles(Path("/r/m"), ("1",))
    ensemble = replace(
        prepare(config, files, devices=DeviceTable(), complete=None), seen=seen(config_pbtxt=6)
    )

    assert loaded(ensemble).plan(ensemble, [1]) == LoadPlan((1,), ())


# --- instances -------------------------------------------------------------------------------


def spec(name: str, signature: bytes = b"cpu") -> InstanceSpec:
    return InstanceSpec(name, "CPU", signature=signature)


def test_more_instances_are_made_and_none_ends() -> None:
    change = reconcile({0: spec("m_0")}, [spec("m_0"), spec("m_1"), spec("m_2")])

    assert change.kept == (0,)
    assert not change.surplus
    assert [one.name for one in change.missing] == ["m_1", "m_2"]


def test_of_equal_instances_the_newest_are_surplus() -> None:
    change = reconcile({0: spec("a"), 1: spec("b"), 5: spec("c")}, [spec("a")])

    assert change.kept == (0,)
    assert change.surplus == (1, 5)
    assert not change.missing


def test_an_instance_of_another_kind_takes_no_place() -> None:
    change = reconcile(
        {0: spec("a", b"cpu"), 1: spec("b", b"gpu")}, [spec("x", b"gpu"), spec("y", b"model")]
    )

    assert change.kept == (1,)
    assert change.surplus == (0,)
    assert [one.name for one in change.missing] == ["y"]
