"""Where a model's instances run: instance groups → one specification per instance.

Owns the defaults of instance groups, the wording with which impossible ones are refused, and the
names of instances. What devices there are is an argument; it never looks at a device itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from repo.model_config import (
    ModelConfig,
    ModelInstanceGroup,
    ModelInstanceGroupKind,
    copy_config,
    ensemble_scheduling,
)
from repo.refusals import ConfigRefusal, raise_first

Kind = Literal["CPU", "GPU", "MODEL"]

# These backends run two CPU instances unless told otherwise, as in Triton.
_TWO_CPU_INSTANCES: Final = frozenset({"onnxruntime", "tensorflow"})

_AUTO: Final = ModelInstanceGroupKind.KIND_AUTO
_GPU: Final = ModelInstanceGroupKind.KIND_GPU
_CPU: Final = ModelInstanceGroupKind.KIND_CPU
_MODEL: Final = ModelInstanceGroupKind.KIND_MODEL


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One GPU; `compute_capability` like (9, 0)."""

    device_id: int
    compute_capability: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class DeviceTable:
    """The GPUs of this machine that meet the minimum compute capability.

    `gpu_support` is False where the server cannot use GPUs at all.
    """

    gpus: tuple[GpuDevice, ...] = ()
    minimum_compute_capability: float = 7.5
    gpu_support: bool = True

    def at_least(self, compute_capability: float) -> DeviceTable:
        """The same table without lesser GPUs, which are invisible from then on."""
        gpus = tuple(
            gpu
            for gpu in self.gpus
            if gpu.compute_capability >= _capability_pair(compute_capability)
        )
        return DeviceTable(gpus, compute_capability, self.gpu_support)

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        return tuple(gpu.device_id for gpu in self.gpus)

    def compute_capability(self, device_id: int) -> tuple[int, int]:
        return next(gpu.compute_capability for gpu in self.gpus if gpu.device_id == device_id)


def _capability_pair(written: float) -> tuple[int, int]:
    """7.5 → (7, 5): NVIDIA counts minors from 0 to 9."""
    major, minor = divmod(round(written * 10), 10)
    return major, minor


NO_GPU: Final = DeviceTable(gpu_support=False)


@dataclass(frozen=True, slots=True)
class PreferredGroup:
    """What a backend prefers where the configuration does not say; `count` 0 leaves it open."""

    kind: Literal["AUTO", "GPU", "CPU", "MODEL"]
    count: int = 0


@dataclass(frozen=True, slots=True)
class ResourceNeed:
    """A resource of the rate limiter that each execution of an instance takes."""

    name: str
    count: int
    is_global: bool = False


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """One instance to create. With several GPUs the same name stands once for each of them."""

    name: str
    kind: Kind
    device_id: int = 0
    passive: bool = False
    host_policy: str = "cpu"
    profiles: tuple[str, ...] = ()
    secondary_devices: tuple[tuple[str, int], ...] = ()
    resources: tuple[ResourceNeed, ...] = ()
    priority: int = 1  # the rate limiter's; 1 runs most often
    signature: bytes = b""  # equal for instances that may stand in for one another on an update


def normalise_instance_groups(
    config: ModelConfig, devices: DeviceTable, preferred: Sequence[PreferredGroup] = ()
) -> ModelConfig:
    """A copy of `config` whose groups have a name, a kind, a count and their GPUs."""
    config = copy_config(config)
    if ensemble_scheduling(config) is not None:
        return config
    if not config.instance_group:
        config.instance_group = [_implicit_group(config.name, devices, preferred)]
    for index, group in enumerate(config.instance_group):
        if not group.name:
            group.name = f"{config.name}_{index}"
        if group.kind == _AUTO:
            supported = (
                devices.gpus
                and all(gpu in devices.gpu_ids for gpu in group.gpus)
                and not (preferred and preferred[0].kind == "CPU")  # it cannot use a GPU
            )
            group.kind = ModelInstanceGroupKind(_GPU if supported else _CPU)
        if group.count < 1:
            group.count = _default_count(group, config.backend, preferred)
        if group.kind == _GPU and not group.gpus:
            group.gpus = list(devices.gpu_ids)
    return config


def _implicit_group(
    model_name: str, devices: DeviceTable, preferred: Sequence[PreferredGroup]
) -> ModelInstanceGroup:
    group = ModelInstanceGroup(name=model_name)
    for one in preferred:
        if one.kind == "GPU" and not devices.gpus:
            continue
        group.kind = ModelInstanceGroupKind.from_string(f"KIND_{one.kind}")
        group.count = one.count
        break
    return group


def _default_count(
    group: ModelInstanceGroup, backend: str, preferred: Sequence[PreferredGroup]
) -> int:
    kind = ModelInstanceGroupKind(group.kind).name
    for one in preferred:
        if f"KIND_{one.kind}" == kind and one.count > 0:
            return one.count
    return 2 if group.kind == _CPU and backend in _TWO_CPU_INSTANCES else 1


def check_instance_groups(config: ModelConfig, devices: DeviceTable) -> None:
    """Judge normalised instance groups. Raises ServerError INVALID_ARG."""
    raise_first(instance_group_refusals(config, devices))


def instance_group_refusals(config: ModelConfig, devices: DeviceTable) -> Iterator[ConfigRefusal]:
    """Everything that there is against normalised instance groups, in their order."""
    if ensemble_scheduling(config) is not None:
        return
    if not config.instance_group:
        yield ConfigRefusal(
            f"must specify one or more 'instance group's for {config.name}", "instance_group"
        )
    for index, group in enumerate(config.instance_group):
        subject = f"instance group {group.name} of model {config.name}"
        place = f"instance_group[{index}]"
        if group.kind == _GPU:
            yield from _gpu_refusals(group, subject, devices, place)
        elif group.gpus:
            kind = ModelInstanceGroupKind(group.kind).name
            yield ConfigRefusal(
                f"{subject} has kind {kind} but specifies one or more GPUs", f"{place}.gpus"
            )
        yield from _profile_refusals(group, subject, config.platform, place)


def _gpu_refusals(
    group: ModelInstanceGroup, subject: str, devices: DeviceTable, place: str
) -> Iterator[ConfigRefusal]:
    if not devices.gpu_support:
        yield ConfigRefusal(
            f"{subject} has kind KIND_GPU but server does not support GPUs", f"{place}.kind"
        )
        return
    if not group.gpus:
        reason = "specifies no GPUs" if devices.gpus else "no GPUs are available"
        yield ConfigRefusal(f"{subject} has kind KIND_GPU but {reason}", f"{place}.kind")
    for index, gpu in enumerate(group.gpus):
        if gpu not in devices.gpu_ids:
            supported = ", ".join(map(str, devices.gpu_ids))
            yield ConfigRefusal(
                f"{subject} specifies invalid or unsupported gpu id {gpu}. GPUs with at least the "
                "minimum required CUDA compute compatibility of "
                f"{devices.minimum_compute_capability:.6f} are: {supported}",
                f"{place}.gpus[{index}]",
            )


def _profile_refusals(
    group: ModelInstanceGroup, subject: str, platform: str, place: str
) -> Iterator[ConfigRefusal]:
    if group.profile and platform != "tensorrt_plan":
        yield ConfigRefusal(
            f"{subject} and platform {platform}specifies profile field "
            "which is only supported for TensorRT models",
            f"{place}.profile",
        )
        return
    for index, profile in enumerate(group.profile):
        if not (profile.isascii() and profile.isdecimal()):
            yield ConfigRefusal(
                f"{subject} specifies invalid profile {profile}. The field should contain the "
                "string representation of a non-negative integer.",
                f"{place}.profile[{index}]",
            )


def expand(config: ModelConfig) -> tuple[InstanceSpec, ...]:
    """One specification per instance of the normalised groups, in the groups' order."""
    return tuple(
        _spec(group, index, kind, device_id)
        for group in config.instance_group
        for index in range(group.count)
        for kind, device_id in _places(group)
    )


def _places(group: ModelInstanceGroup) -> list[tuple[Kind, int]]:
    if group.kind == _GPU:
        return [("GPU", gpu) for gpu in group.gpus]
    assert group.kind != _AUTO, "groups are normalised before they are expanded"
    return [("MODEL" if group.kind == _MODEL else "CPU", 0)]


def _spec(group: ModelInstanceGroup, index: int, kind: Kind, device_id: int) -> InstanceSpec:
    default_policy = {"CPU": "cpu", "GPU": f"gpu_{device_id}", "MODEL": "model"}[kind]
    return InstanceSpec(
        name=f"{group.name}_{index}",
        kind=kind,
        device_id=device_id,
        passive=group.passive,
        host_policy=group.host_policy or default_policy,
        profiles=tuple(group.profile),
        secondary_devices=tuple(
            ("KIND_NVDLA", device.device_id) for device in group.secondary_devices
        ),
        resources=tuple(
            ResourceNeed(one.name, one.count, one.global_) for one in group.rate_limiter.resources
        ),
        priority=max(group.rate_limiter.priority, 1),
        signature=_signature(group, kind, device_id),
    )


def _signature(group: ModelInstanceGroup, kind: Kind, device_id: int) -> bytes:
    """Everything that an instance is made from, but its name and how many there are."""
    anonymous = ModelInstanceGroup().parse(bytes(group))
    anonymous.name, anonymous.count, anonymous.gpus = "", 0, []
    return f"{kind}:{device_id}:".encode() + bytes(anonymous)
