"""Repository agents: code that looks at a model before it is loaded, and may refuse or move it.

Owns the order in which agents are told of a model's life (LOAD, then LOAD_COMPLETE or LOAD_FAIL;
LOAD_COMPLETE is followed by UNLOAD and UNLOAD_COMPLETE), the table of agents that are built in, and
the entry-point group through which a package may bring another. The configuration that names the
agents is read by whoever loads the model.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, util
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from protocol.status import ServerError, internal, not_found

log = logging.getLogger(__name__)

ENTRY_POINT_GROUP: Final = "troupe.repository_agents"
DEFAULT_DIRECTORY: Final = "/opt/tritonserver/repoagents"

_NATIVE: Final = {"checksum": "repo.checksum_agent:ChecksumAgent"}


class Action(enum.Enum):
    """What an agent is told of."""

    LOAD = "LOAD"
    LOAD_COMPLETE = "LOAD_COMPLETE"
    LOAD_FAIL = "LOAD_FAIL"
    UNLOAD = "UNLOAD"
    UNLOAD_COMPLETE = "UNLOAD_COMPLETE"


@dataclass(frozen=True, slots=True)
class AgentModel:
    """The model that an agent is asked about."""

    name: str
    directory: Path  # local, whatever the repository is
    is_local: bool  # False: the files were copied from a remote repository


class RepositoryAgent:
    """One agent of one load of one model. The base class looks on and does nothing."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self.parameters = parameters

    def load(self, model: AgentModel) -> Path | None:
        """Look at the model before its configuration is taken; may block.

        The result is another directory to load it from, or None. Raises ServerError to refuse it.
        """

    def observe(self, action: Action) -> None:
        """Hear how it went on. Must not block, and cannot change anything."""


def native_agents() -> Mapping[str, str]:
    """The agents that Troupe itself brings: where the code of each is, by name."""
    return {
        name: (spec and spec.origin) or target
        for name, target in _NATIVE.items()
        for spec in (util.find_spec(target.partition(":")[0]),)
    }


def make_agent(name: str, parameters: Mapping[str, str], directory: str) -> RepositoryAgent:
    """The agent called `name`; `directory` is where Triton would look for it.

    Raises ServerError: NOT_FOUND when there is none, INTERNAL when it cannot be used.
    """
    target = _NATIVE.get(name)
    if target is not None:
        module, _, attribute = target.partition(":")
        native: type[RepositoryAgent] = getattr(import_module(module), attribute)
        return native(parameters)
    for entry in entry_points(group=ENTRY_POINT_GROUP, name=name):
        try:
            made = entry.load()(parameters)
        except ServerError:
            raise
        except Exception as error:  # others' code; it fails one model, not the server
            text = f"repo agent '{name}' cannot be used: {type(error).__name__}: {error}"
            raise internal(text) from error
        if not isinstance(made, RepositoryAgent):
            raise internal(f"repo agent '{name}' is no {RepositoryAgent.__name__}")
        return made
    raise not_found(
        f"unable to find 'libtritonrepoagent_{name}.so' for repo agent '{name}', "
        f"searched: {directory or DEFAULT_DIRECTORY}"
    )


class AgentChain:
    """The agents of one load of a model, in order, and where in its life the model stands.

    Whatever is made from the model retains the chain; with the last release it is unloaded.
    """

    def __init__(self) -> None:
        self._agents: list[tuple[str, RepositoryAgent]] = []
        self._last = Action.LOAD
        self._users = 0

    def load(self, name: str, agent: RepositoryAgent, model: AgentModel) -> Path | None:
        """Ask one more agent. When it refuses, those before it hear of it. Raises ServerError."""
        assert self._last is Action.LOAD, "agents are asked before the model is loaded"
        try:
            redirected = agent.load(model)
        except ServerError:
            self.fail()
            raise
        except Exception as error:  # others' code, as above
            self.fail()
            text = f"repo agent '{name}' failed: {type(error).__name__}: {error}"
            raise internal(text) from error
        self._agents.append((name, agent))
        return redirected

    def fail(self) -> None:
        """The model was not loaded."""
        if self._last is Action.LOAD:
            self._tell(Action.LOAD_FAIL)

    def complete(self) -> None:
        """The model has been loaded."""
        if self._last is Action.LOAD:
            self._tell(Action.LOAD_COMPLETE)

    def retain(self) -> None:
        self._users += 1

    def release(self) -> None:
        self._users -= 1
        if self._users > 0:
            return
        if self._last is Action.LOAD_COMPLETE:
            self._tell(Action.UNLOAD)
            self._tell(Action.UNLOAD_COMPLETE)

    def _tell(self, action: Action) -> None:
        self._last = action
        for name, agent in self._agents:
            try:
                agent.observe(action)
            except Exception:  # others' code; nothing depends on it
                log.exception("repo agent '%s' failed to observe %s", name, action.value)
