"""Ensembles against the models that their steps name.

Owns the look at several models at once. A model that the server could not load fails every ensemble
that stands on it, and so it does here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from repo.config_rules import config_refusals
from repo.config_text.schema import nearest
from repo.ensemble_rules import member_refusals, with_transaction_policy
from repo.lint.models import CheckedModel
from repo.lint.problems import Problem
from repo.lint.proposals import proposal
from repo.model_config import StepSettings, copy_config, ensemble_scheduling, ensemble_settings


def check_ensembles(models: Mapping[str, CheckedModel]) -> None:
    """Add to every ensemble what is wrong with it among its members."""
    ensembles = {
        name: model
        for name, model in models.items()
        if model.config is not None and ensemble_scheduling(model.config) is not None
    }
    for model in ensembles.values():
        model.add(_circles(model, ensembles))
    # Members first, so that what they fail of is known.
    pending = [name for name, model in ensembles.items() if not model.error_count]
    judged: set[str] = set()
    while pending:
        waiting = set(pending)
        ready = [name for name in pending if not waiting & set(_members(models[name]))]
        assert ready, "circles have errors, and are not pending"
        for name in ready:
            models[name].add(_problems(models[name], models))
            judged.add(name)
        pending = [name for name in pending if name not in judged]


def _steps(model: CheckedModel) -> tuple[StepSettings, ...]:
    settings = None if model.config is None else ensemble_settings(model.config)
    return () if settings is None else settings.steps


def _members(model: CheckedModel) -> list[str]:
    return list(dict.fromkeys(step.model_name for step in _steps(model)))


def _circles(model: CheckedModel, ensembles: Mapping[str, CheckedModel]) -> Iterator[Problem]:
    way = _way(model.name, model.name, ensembles)
    if way:
        text = f"circular dependency between ensembles: {' -> '.join(way)}"
        index = _members_index(model, way[1])
        yield model.document.problem(text, f"ensemble_scheduling.step[{index}].model_name")


def _members_index(model: CheckedModel, name: str) -> int:
    return next(index for index, step in enumerate(_steps(model)) if step.model_name == name)


def _way(start: str, goal: str, ensembles: Mapping[str, CheckedModel]) -> list[str]:
    """The shortest way from one ensemble to another by steps; empty if there is none."""
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        longer: list[list[str]] = []
        for way in ways:
            for member in _members(ensembles[way[-1]]):
                if member == goal:
                    return [*way, goal]
                if member in ensembles and member not in seen:
                    seen.add(member)
                    longer.append([*way, member])
        ways = longer
    return []


def _problems(model: CheckedModel, models: Mapping[str, CheckedModel]) -> Iterator[Problem]:
    document, config = model.document, model.config
    assert config is not None, "it was seen to be an ensemble"
    whole = True
    for index, step in enumerate(_steps(model)):
        place = f"ensemble_scheduling.step[{index}].model_name"
        member = models.get(step.model_name)
        if member is None:
            near = nearest(step.model_name, models.keys() - {model.name})
            yield document.problem(
                f"ensemble {model.name} contains models that are not available or ambiguous: "
                f"{step.model_name}",
                place,
                fix=f'write model_name: "{near}"' if near else "",
            )
        elif member.error_count:
            count = member.error_count
            yield document.problem(
                f"ensemble '{model.name}' depends on '{member.name}' which is not valid: it has "
                f"{count} error{'s' * (count > 1)} of its own",
                place,
            )
        elif step.model_version not in {-1, *member.versions}:
            yield document.problem(
                f"ensemble '{model.name}' depends on '{member.name}' whose required version "
                f"{step.model_version} is not loaded.",
                f"ensemble_scheduling.step[{index}].model_version",
                fix="write model_version: -1 for the latest",
            )
        elif not member.is_open:
            continue
        whole = False
    if not whole:
        return
    members = {name: models[name].config for name in _members(model)}
    configs = {name: one for name, one in members.items() if one is not None}
    for refusal in member_refusals(config, configs):
        yield document.refused(refusal, fix=proposal(refusal, config))
    # One that is decoupled by its members has rules of its own.
    completed = with_transaction_policy(copy_config(config), configs)
    model.config = completed
    for refusal in config_refusals(completed):
        yield document.refused(refusal, fix=proposal(refusal, completed))
