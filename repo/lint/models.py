"""One model of a repository, judged as a server would judge it, but to the end.

Owns the order in which a model is looked at, which is `repo.preparation`'s, and the going on after
a problem. Every rule it asks is the server's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import betterproto

from protocol.status import ServerError
from repo.agents import AgentModel, make_agent, native_agents
from repo.backends.base import InstanceContext
from repo.backends.registry import (
    BACKEND_DIRECTORY,
    DEFAULT_DIRECTORY,
    PYTHON,
    auto_complete,
    may_complete_itself,
    preferred_groups,
    worker_module,
)
from repo.config_files import read_raw
from repo.config_rules import config_refusals
from repo.config_rules_tensors import tensor_refusals
from repo.config_text.schema import nearest
from repo.instance_groups import (
    DeviceTable,
    GpuDevice,
    instance_group_refusals,
    normalise_instance_groups,
)
from repo.lint.data_files import data_problems, label_problems
from repo.lint.layout import model_problems
from repo.lint.model_files import file_problem, file_problems
from repo.lint.problems import Document, Edit, Problem, read
from repo.lint.proposals import proposal
from repo.lint.suspicions import suspicions
from repo.model_config import (
    ModelConfig,
    copy_config,
    ensemble_scheduling,
)
from repo.normalise import normalise
from repo.platforms import autofill
from repo.refusals import ConfigRefusal
from repo.scan import ModelEntry
from repo.versions import select_versions

_HIDDEN_FIX: Final = "move it out of the repository: every directory there is a model"


@dataclass(frozen=True, slots=True)
class LintOptions:
    """What a repository is checked against.

    Without `devices` there are those GPUs that the configurations name: a repository for a machine
    with GPUs can be checked on one without.
    """

    devices: DeviceTable | None = None
    backend_directory: str = DEFAULT_DIRECTORY
    config_name: str = ""


@dataclass(slots=True)
class CheckedModel:
    """What was found of one model.

    `config` is None where nothing could be made of it. `is_open` says that only running the model
    could tell all its inputs and outputs.
    """

    entry: ModelEntry
    document: Document
    problems: list[Problem] = field(default_factory=list)
    config: ModelConfig | None = None
    versions: tuple[int, ...] = ()
    is_open: bool = False

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def error_count(self) -> int:
        return sum(problem.severity == "error" for problem in self.problems)

    def add(self, problems: Iterable[Problem]) -> None:
        """Each problem once: a rule may be asked again about a completed configuration."""
        known = {(one.path, one.line, one.column, one.text) for one in self.problems}
        for problem in problems:
            if (problem.path, problem.line, problem.column, problem.text) not in known:
                self.problems.append(replace(problem, model=self.name))


def check_model(entry: ModelEntry, options: LintOptions) -> CheckedModel:
    """Everything that can be told of one model without the others."""
    directory = Path(entry.path)
    check = _ModelCheck(CheckedModel(entry, Document(directory, "", "pbtxt")), directory, options)
    try:
        check.run()
    except OSError as error:
        check.model.add([Problem(Path(error.filename or directory), "error", str(error.strerror))])
    return check.model


class _ModelCheck:
    def __init__(self, model: CheckedModel, directory: Path, options: LintOptions) -> None:
        self.model = model
        self._directory = directory
        self._options = options
        self._has_file = False

    def run(self) -> None:
        self._add(model_problems(self._directory, self.model.entry.subdirectories))
        given = self._given()
        if given is None:
            return
        self._ask_agents(given)
        config = self._filled(given)
        if config is not None:
            self.model.config = config
            self._refuse(config_refusals(config), config)
            self._select_versions(config)
            config = self._completed(config)
            self._judge_complete(config)
            self.model.config = config
        else:
            self._refuse(tensor_refusals(given), given)
        if not self.model.error_count:
            self._add(suspicions(given, self._directory, self.model.document))

    def _given(self) -> ModelConfig | None:
        """The configuration as it is written; None where there is no making sense of it."""
        model = self.model
        try:
            path = model.entry.config_path(self._options.config_name)
        except ServerError as error:
            self._add([Problem(self._directory, "error", error.message)])
            return None
        if path is None:
            return ModelConfig(name=model.name)
        file = Path(model.entry.storage.full_path(path))
        try:
            raw = read_raw(file)
        except ServerError as error:
            self._add([Problem(file, "error", error.message)])
            return None
        self._has_file = True
        model.document = Document.of(file, raw)
        config = read(model.document, raw)
        if isinstance(config, ModelConfig):
            return config
        self._add(config)
        return None

    def _ask_agents(self, given: ModelConfig) -> None:
        """Those that Troupe brings only compare; others are looked for and not asked."""
        for index, wanted in enumerate(given.model_repository_agents.agents):
            near = nearest(wanted.name, native_agents())
            fix = f'write name: "{near}"' if near not in {"", wanted.name} else ""
            with self._noting(f"model_repository_agents.agents[{index}].name", fix):
                agent = make_agent(wanted.name, wanted.parameters, "")
                if wanted.name in native_agents():
                    agent.load(AgentModel(self.model.name, self._directory, is_local=True))

    def _filled(self, given: ModelConfig) -> ModelConfig | None:
        """With name, backend and defaults; None where nothing tells the backend."""
        name, document = self.model.name, self.model.document
        first = min(self.model.entry.subdirectories, default="")
        inside = (
            {one.name: one.is_dir() for one in (self._directory / first).iterdir()} if first else {}
        )
        try:
            return normalise(autofill(given, name, inside))
        except ServerError as error:
            if not given.name or given.name == name:
                fix = 'write backend: "python", or the backend that the model is for'
                if name.startswith("."):
                    fix = _HIDDEN_FIX
                self._add([document.refused(error, "backend", fix)])
                return None
            problem = document.refused(error, "name", f'write name: "{name}"')
            self._add([self._with_name(problem, name)])
        # The rest is judged as if it had the right name.
        renamed = _renamed(given, name)
        try:
            return normalise(autofill(renamed, name, inside))
        except ServerError as error:
            self._add([document.refused(error, "backend")])
            return None

    def _with_name(self, problem: Problem, name: str) -> Problem:
        place = self.model.document.place("name")
        if place is None or '"' in name or "\\" in name:
            return problem
        return replace(problem, edit=Edit(place.start, place.end, f'"{name}"'))

    def _select_versions(self, config: ModelConfig) -> None:
        found = self.model.entry.versions()
        document, hidden = self.model.document, self.model.name.startswith(".")
        try:
            self.model.versions = select_versions(config, found)
        except ServerError as error:
            fix = _HIDDEN_FIX if hidden else "" if found else "add a version directory, such as 1"
            problem = document.refused(error, "version_policy", fix)
            self._add([problem if problem.line else replace(problem, path=self._directory)])
            return
        choice, policy = betterproto.which_one_of(config.version_policy, "policy_choice")
        for index, version in enumerate(policy.versions if choice == "specific" else ()):
            if version not in found:
                text = (
                    f"version {version} is specified for model '{config.name}', "
                    "but the version directory is not present"
                )
                place = f"version_policy.specific.versions[{index}]"
                self._add([document.problem(text, place, severity="warning")])

    def _completed(self, config: ModelConfig) -> ModelConfig:
        """With what the model's files tell, where a thread of the server would ask them."""
        if ensemble_scheduling(config) is not None or not self.model.versions:
            return config
        context = self._context(config, self.model.versions[-1])
        module = worker_module(config, context.settings)
        if config.backend == PYTHON or module is not None:
            self.model.is_open = may_complete_itself(context, module)
            return config
        try:
            completed = auto_complete(context)
        except ServerError as error:
            if not self.model.error_count:
                self._add([file_problem(error, context, self.model.document)])
            self.model.is_open = True
            return config
        if not (self._has_file or completed.input or completed.output):
            text = f"model configuration is not provided for model '{self.model.name}'"
            self._add([Problem(self._directory, "error", text, fix="add a config.pbtxt")])
        return normalise(completed)

    def _judge_complete(self, config: ModelConfig) -> None:
        devices = self._devices(config)
        preferred = preferred_groups(config, devices)
        grouped = normalise_instance_groups(config, devices, preferred)
        self._refuse(instance_group_refusals(grouped, devices), grouped)
        self._refuse(config_refusals(grouped), grouped)
        self._refuse(tensor_refusals(grouped), grouped)
        document = self.model.document
        self._add(label_problems(config, self._directory, document))
        if self.model.error_count:
            return  # what follows expects a configuration that holds together
        self._add(data_problems(config, self._directory, document))
        for version in self.model.versions:
            self._add(file_problems(self._context(config, version), document))

    def _devices(self, config: ModelConfig) -> DeviceTable:
        if self._options.devices is not None:
            return self._options.devices
        named = {0} | {gpu for group in config.instance_group for gpu in group.gpus if gpu >= 0}
        return DeviceTable(tuple(GpuDevice(gpu) for gpu in sorted(named)))

    def _context(self, config: ModelConfig, version: int) -> InstanceContext:
        return InstanceContext(
            config=config,
            version=version,
            model_directory=self._directory,
            instance_name=config.name,
            kind="CPU",
            settings={BACKEND_DIRECTORY: self._options.backend_directory},
        )

    def _add(self, problems: Iterable[Problem]) -> None:
        self.model.add(problems)

    def _refuse(self, refusals: Iterable[ConfigRefusal], config: ModelConfig) -> None:
        document = self.model.document
        self._add([document.refused(one, fix=proposal(one, config)) for one in refusals])

    @contextmanager
    def _noting(self, path: str, fix: str = "") -> Iterator[None]:
        """What is refused within is a problem of the field at `path`."""
        try:
            yield
        except ServerError as error:
            self._add([self.model.document.refused(error, path, fix)])


def _renamed(config: ModelConfig, name: str) -> ModelConfig:
    """A copy of the configuration under another name."""
    copy = copy_config(config)
    copy.name = name
    return copy
