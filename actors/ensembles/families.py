"""Which ensembles stand on which models, and what that means when a model comes or goes.

Owns the steps' models of every ensemble, as its configuration last said. It loads nothing: it tells
ModelRepository whom a change touches, in which order, and what is wrong with a circle. An ensemble
is judged together with its members here, since their configurations are known only once they serve.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from actors.ensembles.members import LATEST
from actors.lifecycle.model_index import ModelIndex, ServingVersion, VersionEntry
from protocol.status import ServerError, invalid_arg
from repo.config_json import to_json
from repo.config_rules import check_config
from repo.ensemble_rules import check_ensemble_members, with_transaction_policy
from repo.model_config import EnsembleSettings, StepSettings, ensemble_settings
from repo.preparation import ModelDescription

Resolve = Callable[[str, str], str | None]
"""The full name of a step's model, from its own and the ensemble's namespace; see ModelIndex."""


class Families:
    """The ensembles that were described, and their members."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._ensembles: dict[str, ModelDescription] = {}
        self._steps: dict[str, tuple[str, ...]] = {}  # their models, as the steps name them

    def learn(self, description: ModelDescription) -> None:
        """A model was described anew; it may be an ensemble no longer, or one with other steps."""
        name = description.name
        settings = ensemble_settings(description.config)
        if settings is None:
            self.forget(name)
        else:
            self._ensembles[name] = description
            self._steps[name] = tuple(dict.fromkeys(step.model_name for step in settings.steps))

    def forget(self, ensemble: str) -> None:
        """There is none of that name, or it will never be loaded as it is."""
        self._steps.pop(ensemble, None)
        self._ensembles.pop(ensemble, None)

    def description_of(self, ensemble: str) -> ModelDescription:
        """What the ensemble's configuration last said."""
        return self._ensembles[ensemble]

    def members(self, name: str) -> Sequence[str]:
        """The models of an ensemble's steps; nothing for any other model.

        Which ones these are may change with every model that comes or goes. One that is not there
        goes by the name that its step gives it.
        """
        steps = self._steps.get(name)
        if steps is None:
            return ()
        namespace = self._ensembles[name].namespace
        return [self._resolve(step, namespace) or step for step in steps]

    def dependents(self, names: Iterable[str]) -> list[str]:
        """Every ensemble that stands on one of `names`, directly or not."""
        found: dict[str, None] = {}
        pending = list(names)
        while pending:
            member = pending.pop()
            for ensemble in self._steps:
                if ensemble not in found and member in self.members(ensemble):
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
            pending += [one for one in self._steps if name in self.members(one)]
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
    full_names = _full_names(description, settings, index)
    members = {
        step.model_name: _member(
            description.name, replace(step, model_name=full_names[step.model_name]), index, problems
        ).config
        for step in settings.steps
    }
    check_ensemble_members(config, members)
    config = with_transaction_policy(config, members)
    check_config(config)  # a decoupled model has rules of its own
    return replace(description, config=config, config_json=to_json(config), members=full_names)


def _full_names(
    description: ModelDescription, settings: EnsembleSettings, index: ModelIndex
) -> Mapping[str, str]:
    """Which models the steps mean. Raises ServerError for those that nothing, or too much, fits."""
    found: dict[str, str] = {}
    missing: dict[str, None] = {}
    for step in settings.steps:
        full_name = index.resolve(step.model_name, description.namespace)
        if full_name is None:
            missing[step.model_name] = None
        else:
            found[step.model_name] = full_name
    if missing:
        raise invalid_arg(
            f"ensemble {description.name} contains models that are not available or ambiguous: "
            f"{', '.join(missing)}"
        )
    return found


def _member(
    ensemble: str, step: StepSettings, index: ModelIndex, problems: Mapping[str, ServerError]
) -> ServingVersion:
    name = step.model_name
    entry = index.models.get(name)
    serving = None if entry is None else entry.latest
    problem = problems.get(name)
    assert entry is not None, "it was found by its name"
    if serving is None and not entry.versions:
        reason = problem.message if problem is not None else entry.reason
        reason = reason or f"model '{name}' is not loaded"
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
