"""Host policies: what the flag says, and what it cannot say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repo.host_policy import HostPolicies


def test_cores_are_ranges() -> None:
    policies = HostPolicies(["cpu,cpu-cores=0-1,4-5", "gpu_0,cpu-cores=2-2"])

    assert policies.cores_of("cpu") == {0, 1, 4, 5}
    assert policies.cores_of("gpu_0") == {2}
    assert policies.cores_of("model") == set()


def test_a_numa_node_is_its_cores(tmp_path: Path) -> None:
    (tmp_path / "node1").mkdir()
    (tmp_path / "node1" / "cpulist").write_text("4-6,9\n")

    policies = HostPolicies(["cpu,numa-node=1"], nodes=tmp_path)

    assert policies.cores_of("cpu") == {4, 5, 6, 9}


def test_node_and_cores_meet_where_they_can(tmp_path: Path) -> None:
    (tmp_path / "node0").mkdir()
    (tmp_path / "node0" / "cpulist").write_text("0-3\n")

    policies = HostPolicies(["cpu,numa-node=0", "cpu,cpu-cores=2-7"], nodes=tmp_path)

    assert policies.cores_of("cpu") == {2, 3}


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("cpu,cpu-cores=3-1", "'<lower_cpu_core_id>-<upper_cpu_core_id>'. Got 3-1"),
        ("cpu,cpu-cores=x", "'<lower_cpu_core_id>-<upper_cpu_core_id>'. Got x"),
        ("cpu,cpu-cores=0-99999999", "Got 0-99999999"),
        ("cpu,numa-node=77", "names no node: 77"),
        ("cpu,turbo=1", "unsupported host policy setting 'turbo'"),
        ("cpu", "--host-policy option format is '<policy_name>,<setting>=<value>'. Got cpu"),
    ],
)
def test_mistakes_are_named(argument: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        HostPolicies([argument], nodes=tmp_path)
