"""Which check asks what of a server beside inference, for every method of the current client.

A driver fails by itself where a method is called by no check; here stands by which.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent
FLAVOURS: Final = ("http", "http.aio", "grpc", "grpc.aio")
FAMILIES: Final = ("repository", "load_model", "statistics", "trace", "log", "shared_memory")

CHECKS: Final = {
    "get_model_repository_index": ("check_control", "repository_index"),
    "load_model": ("check_control", "load_with_files_of_the_client"),
    "unload_model": ("check_control", "unload_with_dependents"),
    "get_inference_statistics": ("check_control", "statistics_count_requests"),
    "get_trace_settings": ("check_control", "trace_settings"),
    "update_trace_settings": ("check_control", "trace_settings"),
    "get_log_settings": ("check_control", "log_settings"),
    "update_log_settings": ("check_control", "log_settings"),
    "register_system_shared_memory": ("check_shared_memory", "mistakes_with_regions"),
    "unregister_system_shared_memory": ("check_shared_memory", "regions_are_listed"),
    "get_system_shared_memory_status": ("check_shared_memory", "regions_are_listed"),
    "register_cuda_shared_memory": ("check_control", "cuda_regions_without_a_device"),
    "unregister_cuda_shared_memory": ("check_control", "cuda_regions_without_a_device"),
    "get_cuda_shared_memory_status": ("check_control", "cuda_regions_without_a_device"),
}


@functools.cache
def texts_of(module: str) -> dict[str, frozenset[str]]:
    """The literals of every registered check of a module, by its name."""
    return {
        node.name: frozenset(
            each.value
            for each in ast.walk(node)
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        )
        for node in ast.parse((HERE / f"{module}.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    }


@pytest.mark.parametrize("method", CHECKS)
def test_a_method_has_its_check(method: str) -> None:
    module, name = CHECKS[method]
    assert method in texts_of(module)[name], f"{module}.{name} no longer calls it"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_method_is_listed(flavour: str) -> None:
    client = importlib.import_module(f"tritonclient.{flavour}").InferenceServerClient
    methods = {
        name
        for name, value in inspect.getmembers(client, callable)
        if not name.startswith("_") and any(family in name for family in FAMILIES)
    }
    assert methods == set(CHECKS)
