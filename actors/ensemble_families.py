"""Which ensembles stand on which models, and what that means when a model comes or goes.

Owns the steps' models of every ensemble, as its configuration last said. It loads nothing: it tells
ModelRepository whom a change touches, in which order, and what is wrong with a circle. An ensemble
is judged together with its members here, since their configurations are known only once they serve.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from actors.ensemble_members import LATEST
from actors.model_index import ModelIndex, ServingVersion, VersionEntry
from protocol.status import ServerError, invalid_arg
from repo.config_json import to_json
from repo.config_rules import check_config
from repo.ensemble_rules import check_ensemble_members, with_transaction_policy
from repo.model_config import StepSettings, ensemble_settings
from repo.preparation import ModelDescription


class Families:
    """The ensembles that were described, and their members."""

    def __init__(self) -> None:
        self._ensembles: dict[str, ModelDescription] = {}
        self._members: dict[str, tuple[str, ...]] = {}

    def learn(self, description: ModelDescription) -> None:
        """A model was described anew; it may be an ensemble no longer, or one with other steps."""
        name = description.config.name
        settings = ensemble_settings(description.config)
        if settings is None:
            self._ensembles.pop(name, None)
            self._members.pop(name, None)
        else:
            self._ensembles[name] = description
            self._members[name] = tuple(dict.fromkeys(step.model_name for step in settings.steps))

    def forget(self, ensemble: str) -> None:
        """This one will never be loaded as it is: it stands on itself."""
        self._members.pop(ensemble, None)
        self._ensembles.pop(ensemble, None)

    def description_of(self, ensemble: str) -> ModelDescription:
        """What the ensemble's configuration last said."""
        return self._ensembles[ensemble]

    def members(self, name: str) -> Sequence[str]:
        """The models of an ensemble's steps; nothing for any other model."""
        return self._members.get(name, ())

    def dependents(self, names: Iterable[str]) -> list[str]:
        """Every ensemble that stands on one of `names`, directly or not."""
        found: dict[str, None] = {}
        pending = list(names)
        while pending:
            member = pending.pop()
            for ensemble, members in self._members.items():
                if member in members and ensemble not in found:
                    found[ensemble] = None
                    pending.append(ensemble)
        return list(found)

    def around(self, names: Iterable[str]) -> set[str]:
        """Everything that stands in any relation to `names`, themselves included."""
        found: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name in found:
                continue
            found.add(name)
            pending += self.members(name)
            pending += [one for one, members in self._members.items() if name in members]
        return found

    def circle(self, name: str) -> list[str]:
        """The way from an ensemble back to itself; empty if there is none."""
        way = [name]
        tried: set[str] = set()

        def walk() -> bool:
            for member in self.members(way[-1]):
                if member == name:
                    return True
                if member not in tried:
                    tried.add(member)
                    way.append(member)
                    if walk():
                        return True
                    way.pop()
            return False

        return [*way, name] if walk() else []


def circular(way: Sequence[str]) -> ServerError:
    return invalid_arg(f"circular dependency between ensembles: {' -> '.join(way)}")


def judged(
    description: ModelDescription, index: ModelIndex, problems: Mapping[str, ServerError]
) -> ModelDescription:
    """The ensemble, completed by what its members are. Raises ServerError if they do not fit.

    `problems` says why a model that does not serve was not loaded; one that is not there at all is
    not valid.
    """
    config = description.config
    settings = ensemble_settings(config)
    assert settings is not None, "only ensembles are judged"
    members = {
        step.model_name: _member(config.name, step, index, problems).config
        for step in settings.steps
    }
    check_ensemble_members(config, members)
    config = with_transaction_policy(config, members)
    check_config(config)  # a decoupled model has rules of its own
    return replace(description, config=config, config_json=to_json(config))


def _member(
    ensemble: str, step: StepSettings, index: ModelIndex, problems: Mapping[str, ServerError]
) -> ServingVersion:
    name = step.model_name
    entry = index.models.get(name)
    serving = None if entry is None else entry.latest
    problem = problems.get(name)
    if entry is None or (serving is None and not entry.versions):
        reason = problem.message if problem is not None else f"model '{name}' is not found"
        raise invalid_arg(
            f"ensemble '{ensemble}' depends on '{name}' which is not valid. "
            f"Model '{name}' failed with error: {reason}"
        )
    if serving is None:
        reason = problem.message if problem is not None else _reasons(entry.versions.values())
        raise invalid_arg(
            f"ensemble '{ensemble}' depends on '{name}' which has no loaded version. "
            f"Model '{name}' loading failed with error: {reason}"
        )
    if step.model_version == LATEST:
        return serving
    row = entry.versions.get(step.model_version)
    if row is None or row.serving is None:
        raise invalid_arg(
            f"ensemble '{ensemble}' depends on '{name}' whose required version "
            f"{step.model_version} is not loaded."
        )
    return row.serving


def _reasons(rows: Collection[VersionEntry]) -> str:
    return "; ".join(row.reason for row in rows if row.reason)
