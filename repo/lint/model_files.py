"""A model's own files against its configuration, as far as its backend can tell without running it.

Owns the choice of how each backend is asked: an ONNX graph is read to the end, other native
backends load once and stop at their first refusal, a model.py is parsed and never imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from protocol.status import ServerError
from repo.backends.base import InstanceContext
from repo.backends.python.launch import worker_spec
from repo.backends.registry import (
    PYTHON,
    backend_class,
    create_backend,
    is_native,
    names,
    worker_module,
)
from repo.batch_strategy import strategy_file
from repo.config_text.schema import nearest
from repo.lint.problems import Document, Problem
from repo.lint.proposals import proposal
from repo.lint.python_files import python_problems
from repo.model_config import copy_config, ensemble_scheduling

# What a model asks for that takes its time and tells nothing about it.
_SLOW_PARAMETERS: Final = ("EXECUTION_ENV_PATH", "creation_delay_sec")


def file_problems(context: InstanceContext, document: Document) -> Iterator[Problem]:
    """What is wrong with one version of a model, whose configuration has passed its own rules."""
    config = context.config
    if ensemble_scheduling(config) is not None:
        return
    quick = copy_config(config)
    for name in _SLOW_PARAMETERS:
        quick.parameters.pop(name, None)
    context = replace(context, config=quick)
    try:
        strategy_file(config, context.model_directory, context.version)
    except ServerError as error:
        yield document.refused(error, 'parameters["TRITON_BATCH_STRATEGY_PATH"]')
    try:
        module = worker_module(config, context.settings)
        if config.backend == PYTHON or module is not None:
            yield from _python(context, own=module is None)
        elif config.backend == "onnxruntime":
            yield from _onnx(context, document)
        elif config.backend == "pytorch" and importlib.util.find_spec("torch") is None:
            text = "not held against its model: PyTorch is not installed here"
            yield document.problem(text, "backend", severity="note")
        elif is_native(config.backend):
            _load(context)
        else:
            backend_class(config.backend)
    except ServerError as error:
        yield file_problem(error, context, document)
    except Exception as error:  # noqa: BLE001  # a library's own, over files that it does not expect
        text = f"{type(error).__name__}: {error}"
        yield Problem(context.version_directory, "error", text)


def _python(context: InstanceContext, *, own: bool) -> Iterator[Problem]:
    worker_spec(context, "{}")
    if own:
        file = context.config.default_model_filename or "model.py"
        yield from python_problems(context.version_directory / file)


def _onnx(context: InstanceContext, document: Document) -> Iterator[Problem]:
    from repo.backends.onnxruntime_graph import Graph, graph_refusals
    from repo.backends.onnxruntime_session import open_session, run_options

    run_options(context.config)
    graph = Graph.of(open_session(context))
    for refusal in graph_refusals(context.config, graph):
        yield document.refused(refusal, fix=proposal(refusal, context.config))


def _load(context: InstanceContext) -> None:
    backend = create_backend(context)
    try:
        backend.load()
    finally:
        backend.unload()


def file_problem(error: ServerError, context: InstanceContext, document: Document) -> Problem:
    """What a backend raised, as a problem of the model's files or of what refers to them."""
    backend = context.config.backend
    if "unable to find backend library" in error.message:
        near = nearest(backend, names())
        fix = f'write backend: "{near}"' if near else f"known backends: {', '.join(names())}"
        return document.refused(error, "backend", fix)
    if error.message.startswith("autofill failed"):
        fix = "write max_batch_size: 0, and dims with the batch dimension"
        return document.refused(error, "max_batch_size", fix)
    directory = context.version_directory
    if str(directory) in error.message or not directory.is_dir():
        return Problem(directory, "error", error.message, fix=_missing_file_fix(context))
    told = (key for key in context.config.parameters if key in error.message)
    return document.refused(error, f'parameters["{next(told, "")}"]')


def _missing_file_fix(context: InstanceContext) -> str:
    """A file that may be the model under another name."""
    wanted = context.config.default_model_filename
    suffix = wanted.rpartition(".")[2]
    found = sorted(one.name for one in context.version_directory.glob(f"*.{suffix}"))
    if len(found) == 1 and found[0] != wanted:
        return f'rename {found[0]} to {wanted}, or write default_model_filename: "{found[0]}"'
    return ""
