"""How much memory there is, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

from repo.memory import available_bytes


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / name.replace("_", ".", 1)).write_text(text)
    return directory


def test_the_machine_s_own_memory_counts_without_a_group(tmp_path: Path) -> None:
    write(tmp_path, meminfo="MemTotal: 9 kB\nMemAvailable:   2048 kB\n")

    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2048 * 1024
    write(tmp_path, memory_max="max\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2048 * 1024


def test_a_group_allows_less_and_its_cache_can_be_dropped(tmp_path: Path) -> None:
    write(tmp_path, meminfo="MemAvailable: 2048 kB\n", memory_max="1000000\n")
    write(tmp_path, memory_current="700000\n", memory_stat="anon 5\nfile 200000\n")

    assert available_bytes(tmp_path / "meminfo", tmp_path) == 500_000


def test_nobody_may_know(tmp_path: Path) -> None:
    assert available_bytes(tmp_path / "none", tmp_path) is None
    write(tmp_path, meminfo="nonsense\n", memory_max="12\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) is None
