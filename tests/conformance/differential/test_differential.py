"""Troupe against what the real Triton said: `python bench/differential.py --record` asked both.

There is no Triton here. Every answer must be the one that Triton gave, or, where differences.py
explains why not, the one that Troupe gave then.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from differences import EXPLANATIONS, explanation
from drive import Addresses, Driver, Record, copy_models

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture(name="said", scope="module")
def _said(
    tmp_path_factory: pytest.TempPathFactory,
    run_server: Callable[..., AbstractContextManager[Any]],
) -> Record:
    repository = tmp_path_factory.mktemp("differential") / "models"
    copy_models(repository)
    flags = ("--model-control-mode=explicit", "--log-verbose=1", "--allow-gpu-metrics=false")
    with run_server(repository, *flags) as server:
        addresses = Addresses(server.http, server.grpc, server.metrics)
        driver = Driver(addresses, repository=repository)
        try:
            driver.run()
        finally:
            driver.close()
    driver.log_lines("".join(server.lines))
    return driver.record


@pytest.fixture(name="recorded", scope="module")
def _recorded() -> dict[str, Record]:
    recorded: dict[str, Record] = json.loads((HERE / "recorded.json").read_text())
    return recorded


def test_troupe_says_what_triton_said(said: Record, recorded: dict[str, Record]) -> None:
    expected = recorded["triton"] | recorded["troupe"]

    wrong = [key for key in expected if said[key] != expected[key]]

    assert wrong == []
    assert said.keys() == recorded["triton"].keys()


def test_every_explanation_has_its_difference(recorded: dict[str, Record]) -> None:
    differing = recorded["troupe"].keys()

    assert [key for key in differing if explanation(key) is None] == []
    assert [key for key in differing if recorded["triton"][key] == recorded["troupe"][key]] == []
    used = {explanation(key) for key in differing}
    assert set(EXPLANATIONS.values()) == used


def test_every_explanation_is_documented() -> None:
    document = " ".join((ROOT / "docs" / "python_backend.md").read_text().split())

    assert [text for text in EXPLANATIONS.values() if text not in document] == []
