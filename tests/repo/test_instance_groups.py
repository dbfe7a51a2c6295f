"""Instance groups: their defaults, their refusals, and the instances they stand for."""

from __future__ import annotations

import pytest

from protocol.status import ServerError, StatusCode
from repo.instance_groups import (
    NO_GPU,
    DeviceTable,
    GpuDevice,
    InstanceSpec,
    PreferredGroup,
    ResourceNeed,
    check_instance_groups,
    expand,
    normalise_instance_groups,
)
from repo.model_config import ModelConfig, ModelInstanceGroupKind
from repo.pbtxt import parse_config

TWO_GPUS = DeviceTable((GpuDevice(0, (9, 0)), GpuDevice(1, (8, 0))))


def _groups(text: str, devices: DeviceTable = NO_GPU, *preferred: PreferredGroup) -> ModelConfig:
    config = parse_config(f'name: "m" {text}', "x")
    return normalise_instance_groups(config, devices, preferred)


def _names(
    text: str, devices: DeviceTable = NO_GPU, *preferred: PreferredGroup
) -> list[tuple[str, str, int]]:
    specs = expand(_groups(text, devices, *preferred))
    return [(spec.name, spec.kind, spec.device_id) for spec in specs]


def test_the_implicit_group_is_named_like_the_model() -> None:
    config = _groups("")

    assert config.instance_group[0].name == "m"
    assert _names("") == [("m_0", "CPU", 0)]


def test_onnxruntime_has_two_cpu_instances_by_default() -> None:
    assert _names('backend: "onnxruntime"') == [("m_0", "CPU", 0), ("m_1", "CPU", 0)]
    assert _names('backend: "onnxruntime" instance_group { count: 1 kind: KIND_CPU }') == [
        ("m_0_0", "CPU", 0)
    ]
    assert _names('backend: "onnxruntime"', TWO_GPUS) == [("m_0", "GPU", 0), ("m_0", "GPU", 1)]


def test_unnamed_groups_are_numbered() -> None:
    assert _names('instance_group [ { count: 2 }, { name: "x" }, { kind: KIND_MODEL } ]') == [
        ("m_0_0", "CPU", 0),
        ("m_0_1", "CPU", 0),
        ("x_0", "CPU", 0),
        ("m_2_0", "MODEL", 0),
    ]


def test_the_same_name_stands_on_every_gpu() -> None:
    assert _names("instance_group { count: 2 kind: KIND_GPU }", TWO_GPUS) == [
        ("m_0_0", "GPU", 0),
        ("m_0_0", "GPU", 1),
        ("m_0_1", "GPU", 0),
        ("m_0_1", "GPU", 1),
    ]


@pytest.mark.parametrize(
    ("gpus", "devices", "kind"),
    [
        ("", NO_GPU, "CPU"),
        ("", TWO_GPUS, "GPU"),
        ("gpus: 1", TWO_GPUS, "GPU"),
        ("gpus: [ 1, 2 ]", TWO_GPUS, "CPU"),
    ],
)
def test_auto_takes_a_gpu_only_if_all_listed_ones_are_there(
    gpus: str, devices: DeviceTable, kind: str
) -> None:
    group = _groups(f"instance_group {{ {gpus} }}", devices).instance_group[0]

    assert ModelInstanceGroupKind(group.kind).name == f"KIND_{kind}"


def test_a_backend_may_prefer_a_group() -> None:
    gpu, model = PreferredGroup("GPU"), PreferredGroup("MODEL", 3)

    assert _names("", TWO_GPUS, gpu, model) == [("m_0", "GPU", 0), ("m_0", "GPU", 1)]
    assert _names("", NO_GPU, gpu, model) == [(f"m_{i}", "MODEL", 0) for i in range(3)]
    assert len(_names("instance_group { kind: KIND_MODEL }", NO_GPU, gpu, model)) == 3
    assert len(_names("instance_group { kind: KIND_CPU }", NO_GPU, gpu, model)) == 1


def test_an_ensemble_has_no_instances() -> None:
    config = _groups("ensemble_scheduling { }")

    assert not config.instance_group
    check_instance_groups(config, NO_GPU)
    assert expand(config) == ()


def test_a_specification_says_everything_about_an_instance() -> None:
    specs = expand(
        _groups(
            """
            instance_group {
              kind: KIND_GPU gpus: 1 passive: true
              profile: "2" secondary_devices { device_id: 4 }
              rate_limiter { resources { name: "R" count: 2 global: true } priority: 3 }
            }
            instance_group {
              kind: KIND_CPU host_policy: "p" rate_limiter { resources { name: "S" } }
            }
            instance_group { kind: KIND_MODEL }
            """,
            TWO_GPUS,
        )
    )

    signatures = [spec.signature for spec in specs]
    assert len(set(signatures)) == 3
    assert list(specs) == [
        InstanceSpec(
            name="m_0_0",
            kind="GPU",
            device_id=1,
            passive=True,
            host_policy="gpu_1",
            profiles=("2",),
            secondary_devices=(("KIND_NVDLA", 4),),
            resources=(ResourceNeed("R", 2, is_global=True),),
            priority=3,
            signature=signatures[0],
        ),
        InstanceSpec(
            name="m_1_0",
            kind="CPU",
            host_policy="p",
            resources=(ResourceNeed("S", 0),),
            signature=signatures[1],
        ),
        InstanceSpec(name="m_2_0", kind="MODEL", host_policy="model", signature=signatures[2]),
    ]


def test_name_and_count_do_not_make_another_instance() -> None:
    one = expand(_groups('instance_group { name: "a" count: 1 kind: KIND_GPU }', TWO_GPUS))
    two = expand(_groups('instance_group { name: "b" count: 2 kind: KIND_GPU }', TWO_GPUS))
    other = expand(_groups('instance_group { host_policy: "p" kind: KIND_GPU }', TWO_GPUS))

    assert [spec.signature for spec in two] == [spec.signature for spec in one] * 2
    assert one[0].signature != one[1].signature
    assert other[0].signature != one[0].signature


@pytest.mark.parametrize(
    ("text", "devices", "message"),
    [
        (
            "instance_group { kind: KIND_CPU gpus: 0 }",
            TWO_GPUS,
            "instance group m_0 of model m has kind KIND_CPU but specifies one or more GPUs",
        ),
        (
            "instance_group { kind: KIND_MODEL gpus: 0 }",
            TWO_GPUS,
            "instance group m_0 of model m has kind KIND_MODEL but specifies one or more GPUs",
        ),
        (
            "instance_group { kind: KIND_GPU }",
            NO_GPU,
            "instance group m_0 of model m has kind KIND_GPU but server does not support GPUs",
        ),
        (
            "instance_group { kind: KIND_GPU }",
            DeviceTable(),
            "instance group m_0 of model m has kind KIND_GPU but no GPUs are available",
        ),
        (
            "instance_group { kind: KIND_GPU gpus: 99 }",
            TWO_GPUS,
            (
                "instance group m_0 of model m specifies invalid or unsupported gpu id 99. GPUs "
                "with at least the minimum required CUDA compute compatibility of 7.500000 "
                "are: 0, 1"
            ),
        ),
        (
            'platform: "p" instance_group { profile: "0" }',
            NO_GPU,
            (
                "instance group m_0 of model m and platform pspecifies profile field which is only "
                "supported for TensorRT models"
            ),
        ),
        (
            'platform: "tensorrt_plan" instance_group { profile: "-1" }',
            NO_GPU,
            (
                "instance group m_0 of model m specifies invalid profile -1. The field should "
                "contain the string representation of a non-negative integer."
            ),
        ),
    ],
)
def test_impossible_groups_are_refused(text: str, devices: DeviceTable, message: str) -> None:
    with pytest.raises(ServerError) as failure:
        check_instance_groups(_groups(text, devices), devices)

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == message


def test_groups_must_have_been_filled_in() -> None:
    with pytest.raises(ServerError) as failure:
        check_instance_groups(parse_config('name: "m"', "x"), NO_GPU)
    assert failure.value.message == "must specify one or more 'instance group's for m"

    with pytest.raises(ServerError) as failure:
        check_instance_groups(
            parse_config('name: "m" instance_group { name: "g" kind: KIND_GPU }', "x"), TWO_GPUS
        )
    assert failure.value.message == (
        "instance group g of model m has kind KIND_GPU but specifies no GPUs"
    )


def test_possible_groups_pass() -> None:
    for text in (
        "",
        "instance_group { kind: KIND_GPU gpus: [ 0, 1 ] }",
        'platform: "tensorrt_plan" instance_group { profile: "1" }',
    ):
        check_instance_groups(_groups(text, TWO_GPUS), TWO_GPUS)


def test_the_table_knows_its_devices() -> None:
    assert TWO_GPUS.gpu_ids == (0, 1)
    assert TWO_GPUS.compute_capability(1) == (8, 0)
