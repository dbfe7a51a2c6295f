"""A configuration survives every way between its three forms."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.proto import messages
from protocol.status import ServerError
from repo.config_files import parse_text, read_config, write_config
from repo.config_text.schema import Syntax
from repo.model_config import ModelConfig
from repo.pbtxt import from_proto, to_proto
from tests.configurations import configurations

ROOT = Path(__file__).parents[3]
SAMPLES = sorted(ROOT.glob("sample_repository*/*/config.pbtxt"))
FORMS: tuple[Syntax, ...] = ("pbtxt", "json", "yaml")
AROUND: tuple[Syntax, ...] = ("pbtxt", "json", "yaml", "json", "pbtxt", "yaml", "pbtxt")


def wire(config: ModelConfig) -> bytes:
    return to_proto(config).SerializeToString(deterministic=True)


def go_around(config: ModelConfig) -> None:
    text = write_config(config, AROUND[0])
    for here, there in pairwise(AROUND):
        read = parse_text(text.encode(), here, "somewhere")
        assert wire(read) == wire(config), (here, text)
        text = write_config(read, there)


@given(configurations())
@settings(max_examples=80, deadline=None)
def test_nothing_is_lost(serialized: bytes) -> None:
    go_around(from_proto(messages.ModelConfig.FromString(serialized)))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name)
def test_the_samples_survive(path: Path) -> None:
    go_around(read_config(path))


@given(st.sampled_from(FORMS), st.text(st.characters(codec="utf-8"), max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_or_refused(syntax: Syntax, text: str) -> None:
    with contextlib.suppress(ServerError):
        parse_text(text.encode(), syntax, "somewhere")
