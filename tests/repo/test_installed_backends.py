"""Backends that a package brings: how they are found, and what is said of those that are broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from protocol.status import ServerError, StatusCode
from repo.backends import registry
from repo.backends.base import Backend, InstanceContext
from repo.model_config import ModelConfig
from repo.pbtxt import parse_config

MODULE = """
from troupe.backends import Backend, ServerError, StatusCode


class Good(Backend):
    def load(self):
        self.loaded = True

    def execute(self, requests, timings):
        return [None for _ in requests]


class Half(Backend):
    def load(self):
        pass


class Rude(Good):
    def __init__(self, context):
        raise ValueError("not today")

    @classmethod
    def auto_complete(cls, context):
        return 1 / 0


class Polite(Good):
    def __init__(self, context):
        raise ServerError(StatusCode.UNSUPPORTED, "no such device")


def function(context):
    return Good(context)
"""


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `brought_backends`, as pip would leave it."""
    (tmp_path / "brought_backends.py").write_text(MODULE)
    entries = {
        name: f"brought_backends:{target}"
        for name, target in (
            ("good", "Good"), ("half", "Half"), ("rude", "Rude"), ("polite", "Polite"),
            ("function", "function"), ("nowhere", "Nowhere"), ("twice", "Good"),
        )
    }  # fmt: skip
    entries["gone"] = "backends_that_are_gone:Good"
    entries["identity"] = "brought_backends:Good"
    _distribution(tmp_path, "brought", entries)
    _distribution(tmp_path, "other", {"twice": "brought_backends:Half"})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "brought_backends", raising=False)


def _distribution(directory: Path, name: str, entries: dict[str, str]) -> None:
    metadata = directory / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{key} = {value}" for key, value in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[troupe.backends]", *lines, ""]))


def context(backend: str) -> InstanceContext:
    config = parse_config(f'name: "m" backend: "{backend}"', "x")
    return InstanceContext(config, 1, Path("/models/m"), "m_0", "CPU")


def create(backend: str) -> Backend:
    return registry.create_backend(context(backend))


def complete(backend: str) -> ModelConfig:
    return registry.auto_complete(context(backend))


def test_an_installed_backend_runs() -> None:
    backend = create("good")

    backend.load()

    assert type(backend).__name__ == "Good"
    assert bytes(complete("good")) == bytes(context("good").config)


def test_a_native_backend_is_not_replaced() -> None:
    assert type(create("identity")).__module__ == "repo.backends.identity"


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (
            "gone",
            (
                "backend 'gone' cannot be imported from 'backends_that_are_gone:Good': "
                "ModuleNotFoundError: No module named 'backends_that_are_gone'"
            ),
        ),
        (
            "nowhere",
            (
                "backend 'nowhere' cannot be imported from 'brought_backends:Nowhere': "
                "AttributeError: module 'brought_backends' has no attribute 'Nowhere'"
            ),
        ),
        (
            "function",
            (
                "backend 'function' is no troupe.backends.Backend; its entry point "
                "'brought_backends:function' in 'troupe.backends' must name one"
            ),
        ),
        ("half", "backend 'half' ('brought_backends:Half') does not define execute"),
        ("rude", "backend 'rude' cannot be made for 'm_0': ValueError: not today"),
        (
            "twice",
            (
                "backend 'twice' is brought by several packages: brought_backends:Good, "
                "brought_backends:Half; uninstall all but one"
            ),
        ),
    ],
)
def test_broken_backends_fail_their_model(backend: str, message: str) -> None:
    with pytest.raises(ServerError) as failure:
        create(backend)

    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message == message


def test_a_backend_may_refuse_in_its_own_words() -> None:
    with pytest.raises(ServerError) as failure:
        create("polite")

    assert (failure.value.status, failure.value.message) == (
        StatusCode.UNSUPPORTED,
        "no such device",
    )


def test_a_completion_that_raises_fails_its_model() -> None:
    with pytest.raises(ServerError) as failure:
        complete("rude")

    assert failure.value.message == (
        "backend 'rude' cannot complete model 'm': ZeroDivisionError: division by zero"
    )


def test_a_backend_that_nobody_brings_is_unknown() -> None:
    with pytest.raises(ServerError) as failure:
        create("absent")

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == (
        "unable to find backend library for backend 'absent', try specifying runtime on the "
        "model configuration."
    )
