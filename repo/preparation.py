"""From a model's files to a description that can be wired: the order in which a model is judged.

Owns that order: names and backend, defaults, the rules, what the model's own files say, instance
groups, the rules again, labels, versions. Each step lives in a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from protocol.status import ServerError
from repo.agents import AgentChain
from repo.config_json import to_json
from repo.config_rules import check_complete_config, check_config
from repo.instance_groups import (
    DeviceTable,
    InstanceSpec,
    PreferredGroup,
    check_instance_groups,
    expand,
    normalise_instance_groups,
)
from repo.labels import load_labels
from repo.model_config import ModelConfig
from repo.normalise import normalise
from repo.platforms import autofill
from repo.scan import ModelIdentity, Sighting
from repo.storage import Checkout
from repo.versions import discover_versions, select_versions

Complete = Callable[[ModelConfig, int], ModelConfig]
"""Fills in what the files of one version tell; raises ServerError."""

Prefer = Callable[[ModelConfig], Sequence[PreferredGroup]]
"""The instance groups that a model's backend prefers where its configuration has none."""


class LoadRefused(ServerError):
    """A model whose configuration can be read and that does not load all the same.

    `version` is the one that is to blame, None if it is the model as a whole.
    """

    __slots__ = ("version",)

    def __init__(self, version: int | None, cause: ServerError) -> None:
        super().__init__(cause.status, cause.message)
        self.version = version


@dataclass(frozen=True, slots=True, eq=False)
class ModelDescription:
    """A model that is ready to be loaded."""

    config: ModelConfig
    config_json: str
    directory: Path  # <repository>/<model>
    versions: tuple[int, ...]  # those that the version policy selects, ascending
    instances: tuple[InstanceSpec, ...]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by output name
    checkout: Checkout | None = None  # holds `directory` while versions made of it live
    namespace: str = ""
    agents: AgentChain | None = None  # hears when the model has been loaded, and when it has gone
    seen: Sighting | None = None  # when it was described; None: a request brought the files
    given_config: str | None = None  # the configuration, as JSON, that a load request brought
    load_bytes: int = 0  # what one instance of one version is expected to take, at most
    # Of an ensemble that was judged: the model of each step by the name that the step gives it.
    members: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model among those of all repositories: `<namespace>::<model>`, or its name alone."""
        return str(ModelIdentity(self.namespace, self.config.name))

    def retain(self) -> None:
        """One more version is made of it; see `release`."""
        for held in (self.checkout, self.agents):
            if held is not None:
                held.retain()

    def release(self) -> None:
        """A version made of it has ended; with the last one go local copies and agents."""
        for held in (self.checkout, self.agents):
            if held is not None:
                held.release()


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model directory holds, as far as preparation looks."""

    directory: Path
    subdirectories: tuple[str, ...] = ()
    name: str = ""  # of the model, where that is not its directory's
    first_version: Mapping[str, bool] = field(default_factory=dict)  # name → is a directory


def prepare(
    config: ModelConfig,
    files: ModelFiles,
    *,
    devices: DeviceTable,
    complete: Complete | None,
    prefer: Prefer = lambda _: (),
) -> ModelDescription:
    """Complete and judge a configuration. Raises ServerError with the text the log shows.

    LoadRefused is what Triton finds out after polling, when it makes a version. `complete` is None
    when auto-completion is off: tensors are judged while polling then.
    """
    config = autofill(config, files.name or files.directory.name, files.first_version)
    config = normalise(config)
    if complete is None:
        check_complete_config(config)
    else:
        check_config(config)
    with _refusing(None):
        versions = select_versions(config, discover_versions(files.subdirectories))
    with _refusing(versions[-1]):
        if complete is not None:
            config = normalise(complete(config, versions[-1]))
        config = normalise_instance_groups(config, devices, prefer(config))
        check_instance_groups(config, devices)
        check_complete_config(config)
        return ModelDescription(
            config=config,
            config_json=to_json(config),
            directory=files.directory,
            versions=versions,
            instances=expand(config),
            labels=load_labels(config, files.directory),
        )


@contextmanager
def _refusing(version: int | None) -> Iterator[None]:
    try:
        yield
    except ServerError as error:
        raise LoadRefused(version, error) from error
