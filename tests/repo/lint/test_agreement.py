"""Whatever a configuration says, the checker and the server are of one mind about it."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.proto import messages
from protocol.status import ServerError
from repo.backends.base import InstanceContext
from repo.backends.registry import auto_complete, create_backend, preferred_groups
from repo.batch_strategy import strategy_file
from repo.config_files import CONFIG_FILES, SUFFIXES, read_config, write_config
from repo.implicit_state import StatePlan
from repo.instance_groups import NO_GPU
from repo.lint.models import LintOptions, check_model
from repo.model_config import ModelConfig, parameter, scheduling_choice
from repo.pbtxt import from_proto, parse_config, to_proto
from repo.preparation import ModelFiles, prepare
from repo.scan import ModelIdentity, read_entry
from repo.storage import LocalStorage
from repo.warmup import warmup_samples
from tests.configurations import configurations

TENSORS = (
    'max_batch_size: 8 input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] } '
    'output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } '
)


def served(directory: Path) -> bool:
    """Whether a server would load the model, as far as can be told without running it."""
    try:
        found = [directory / name for name in CONFIG_FILES if (directory / name).is_file()]
        config = read_config(found[0])

        def complete(config: ModelConfig, version: int) -> ModelConfig:
            if scheduling_choice(config) == "ensemble_scheduling":
                return config
            return auto_complete(context(config, version))

        def context(config: ModelConfig, version: int) -> InstanceContext:
            return InstanceContext(config, version, directory, "m_0", "CPU")

        description = prepare(
            config,
            ModelFiles(directory, ("1",), "m", {}),
            devices=NO_GPU,
            complete=complete,
            prefer=partial(preferred_groups, devices=NO_GPU),
        )
        config = description.config
        if scheduling_choice(config) == "ensemble_scheduling":
            return True
        StatePlan.load(config, directory)
        warmup_samples(config, directory)
        strategy_file(config, directory, 1)
        backend = create_backend(context(config, 1))
        backend.load()
        backend.unload()
    except ServerError:
        return False
    return True


def checked(directory: Path) -> bool:
    entry = read_entry(LocalStorage(str(directory.parent)), ModelIdentity("", "m"), "m")
    return not check_model(entry, LintOptions(devices=NO_GPU)).error_count


def model(root: Path, name: str, text: str) -> Path:
    directory = root / "m"
    (directory / "1").mkdir(parents=True)
    (directory / name).write_text(text)
    return directory


@given(configurations(), st.sampled_from(sorted(SUFFIXES)), st.booleans())
@settings(max_examples=50, deadline=None)
def test_anything(serialized: bytes, suffix: str, is_complete: bool) -> None:
    """With the tensors of a model that loads, or with whatever tensors there are."""
    message = messages.ModelConfig.FromString(serialized)
    message.name, message.backend, message.platform = "m", "identity", ""
    del message.model_repository_agents.agents[:]  # theirs is other code
    # A server makes as many instances, and tensors as large, as it is told to.
    message.ClearField("instance_group")
    message.ClearField("model_warmup")
    if message.HasField("sequence_batching"):
        del message.sequence_batching.state[:]
    if is_complete:
        for field in ("input", "output", "batch_input", "batch_output"):
            message.ClearField(field)
        message.MergeFrom(to_proto(parse_config(TENSORS, "t")))
    config = from_proto(message)
    if parameter(config, "creation_delay_sec") is not None:
        return  # the server would really wait
    with tempfile.TemporaryDirectory() as root:
        directory = model(Path(root), f"config{suffix}", write_config(config, SUFFIXES[suffix]))
        assert checked(directory) == served(directory), config


@pytest.mark.parametrize("name", sorted(CONFIG_FILES))
@given(text=st.text(st.sampled_from("{}[]:,\"'#- \n\\ainput:dims1&*"), max_size=30))
@settings(max_examples=40, deadline=None)
def test_any_text(name: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        directory = model(Path(root), name, text)
        assert checked(directory) == served(directory)
