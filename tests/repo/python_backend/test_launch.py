"""How a worker is started: settings, names, environments, and what old interpreters accept."""

from __future__ import annotations

import ast
import io
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from protocol.status import ServerError, StatusCode
from repo.backends.base import InstanceContext
from repo.backends.python.environment import EnvironmentStore
from repo.backends.python.launch import WorkerSpec, worker_spec
from repo.model_config import (
    ModelConfig,
    ModelParameter,
    ModelSequenceBatching,
    ModelTransactionPolicy,
)

SOURCES = Path(__file__).parents[3] / "repo" / "backends" / "python"

# These run in the server only.
SERVER_SIDE = {"launch.py", "environment.py"}


def context(
    directory: Path, settings: dict[str, str] | None = None, **fields: Any
) -> InstanceContext:
    parameters = {
        key: ModelParameter(string_value=value)
        for key, value in fields.pop("parameters", {}).items()
    }
    config = ModelConfig(name=fields.pop("name", "m"), parameters=parameters, **fields)
    return InstanceContext(
        config=config,
        version=3,
        model_directory=directory / "m",
        instance_name="m_0_0",
        kind="GPU",
        device_id=1,
        settings=settings or {},
    )


def refused(*arguments: Any, **more: Any) -> ServerError:
    with pytest.raises(ServerError) as caught:
        worker_spec(context(*arguments, **more), "{}")
    return caught.value


def test_a_worker_is_told_what_it_needs(tmp_path: Path) -> None:
    spec = worker_spec(context(tmp_path), '{"name": "m"}')
    load = spec.load
    version = str(tmp_path / "m" / "3")
    assert (load.model_name, load.version, load.instance_name) == ("m", 3, "m_0_0")
    assert (load.kind, load.device_id) == ("GPU", 1)
    assert (load.module_directory, load.version_directory) == (version, version)
    assert load.model_directory == str(tmp_path / "m")
    assert (load.file_name, load.config_json) == ("model.py", '{"name": "m"}')
    assert (load.decoupled, load.reschedulable, load.auto_complete) == (0, 0, 0)
    assert (load.bls_limit, load.first_segment_bytes, load.segment_growth_bytes) == (
        32, 1 << 20, 1 << 20,
    )  # fmt: skip
    assert spec.interpreter == sys.executable
    assert spec.command((5, 6, 7))[-3:] == ["5", "6", "7"]


def test_a_configuration_changes_what_a_worker_does(tmp_path: Path) -> None:
    changed = context(
        tmp_path,
        {
            "shm-default-byte-size": "4194304",
            "shm-growth-byte-size": "2097152",
            "thread-pool-size": "3",
            "stub-timeout-seconds": "60",
            "shm-region-prefix-name": "p",
        },
        default_model_filename="other.py",
        model_transaction_policy=ModelTransactionPolicy(decoupled=True),
        sequence_batching=ModelSequenceBatching(iterative_sequence=True),
        parameters={"FORCE_CPU_ONLY_INPUT_TENSORS": "no"},
    )
    load = worker_spec(changed, "{}", auto_complete=True).load
    assert load.file_name == "other.py"
    assert (load.decoupled, load.reschedulable, load.auto_complete) == (1, 1, 1)
    assert (load.bls_limit, load.first_segment_bytes, load.segment_growth_bytes) == (
        3, 4 << 20, 2 << 20,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sequences", "parameters", "bisects"),
    [
        (False, {}, True),
        (False, {"TROUPE_BISECT_POISON": "false"}, False),
        (True, {}, False),
        (True, {"TROUPE_BISECT_POISON": "true"}, True),
    ],
)
def test_a_poisoned_request_is_looked_for_unless_requests_must_not_be_repeated(
    tmp_path: Path, sequences: bool, parameters: dict[str, str], bisects: bool
) -> None:
    """Sequences have told the dead worker what its successor does not know."""
    fields: dict[str, Any] = {"parameters": parameters}
    if sequences:
        fields["sequence_batching"] = ModelSequenceBatching()
    assert worker_spec(context(tmp_path, **fields), "{}").bisects_poison is bisects


def test_a_parameter_that_is_no_boolean_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, parameters={"TROUPE_BISECT_POISON": "perhaps"})
    assert error.message == "failed to convert 'perhaps' to boolean"


def test_a_python_based_backend_has_its_own_module(tmp_path: Path) -> None:
    backend = tmp_path / "backends" / "mine"
    load = worker_spec(
        context(tmp_path, default_model_filename="engine.json"), "{}", backend_directory=backend
    ).load
    assert (load.module_directory, load.file_name) == (str(backend), "model.py")
    assert load.version_directory == str(tmp_path / "m" / "3")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"shm-default-byte-size": "1048575"},
            "shm-default-byte-size can't be smaller than 4 MiBs",
        ),
        (
            {"shm-growth-byte-size": "0"},
            "shm-growth-byte-size can't be smaller than or equal to zero.",
        ),
        (
            {"stub-timeout-seconds": "0"},
            "stub-timeout-seconds can't be smaller than or equal to zero.",
        ),
        (
            {"shm-region-prefix-name": ""},
            "shm-region-prefix-name must at least contain one character.",
        ),
        ({"thread-pool-size": "0"}, "thread-pool-size can't be less than 1."),
        ({"thread-pool-size": "many"}, "failed to convert 'many' to integral number"),
    ],
)
def test_settings_are_checked(tmp_path: Path, settings: dict[str, str], text: str) -> None:
    error = refused(tmp_path, settings)
    assert error.status is StatusCode.INVALID_ARG
    assert error.message == text


def test_names_and_parameters_are_checked(tmp_path: Path) -> None:
    for character in ";|&$`<>()[]{}\\\"'*?~#!":
        error = refused(tmp_path, name=f"m{character}")
        assert error.message == "Invalid stub name: contains invalid characters"
    error = refused(tmp_path, parameters={"FORCE_CPU_ONLY_INPUT_TENSORS": "maybe"})
    assert error.status is StatusCode.UNSUPPORTED
    assert error.message == "Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: maybe'"


# --- execution environments ----------------------------------------------------------------------


def environment(directory: Path) -> Path:
    """Something that looks like a virtual environment."""
    (directory / "bin").mkdir(parents=True)
    (directory / "bin" / "activate").touch()
    (directory / "bin" / "python3").symlink_to(sys.executable)
    return directory


def with_environment(tmp_path: Path, location: str) -> WorkerSpec:
    return worker_spec(context(tmp_path, parameters={"EXECUTION_ENV_PATH": location}), "{}")


def test_an_environment_is_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    made = environment(tmp_path / "m" / "env")
    spec = with_environment(tmp_path, "$$TRITON_MODEL_DIRECTORY/env")
    assert spec.interpreter == str(made / "bin" / "python3")
    assert spec.environment["LD_LIBRARY_PATH"] == f"{made / 'lib'}:/before"
    assert spec.environment["PATH"].startswith(f"{made / 'bin'}:")
    assert spec.environment["VIRTUAL_ENV"] == str(made)
    assert "PYTHONHOME" not in spec.environment
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert with_environment(tmp_path, str(made)).environment["LD_LIBRARY_PATH"] == str(made / "lib")


def test_an_environment_may_be_just_an_interpreter(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.symlink_to(sys.executable)
    spec = with_environment(tmp_path, str(interpreter))
    assert spec.interpreter == str(interpreter)
    assert spec.environment == dict(os.environ)


def test_an_environment_has_to_look_like_one(tmp_path: Path) -> None:
    def error_of(location: Path) -> str:
        with pytest.raises(ServerError) as caught:
            with_environment(tmp_path, str(location))
        return caught.value.message

    empty = tmp_path / "empty"
    empty.mkdir()
    assert error_of(empty) == (
        f"Path {empty}/bin/activate does not exist. The Python environment should contain an "
        "'activate' script."
    )
    made = environment(tmp_path / "env")
    (made / "bin" / "python3").unlink()
    assert error_of(made) == f"Path {made}/bin contains no Python interpreter."
    gone = tmp_path / "gone"
    assert error_of(gone) == f"Failed to get the canonical path for {gone}."
    text = tmp_path / "text"
    text.write_text("no archive")
    assert error_of(text).startswith(f"Failed to extract '{text}': ")


def pack(archive: Path, *members: tuple[str, str]) -> None:
    """An archive of (name, text) members, or links for texts that begin with `->`."""
    with tarfile.open(archive, "w:gz") as packed:
        for name, text in members:
            member = tarfile.TarInfo(name)
            if text.startswith("->"):
                member.type = tarfile.SYMTYPE
                member.linkname = text.removeprefix("->")
                packed.addfile(member)
            else:
                member.size = len(text)
                member.mode = 0o755
                packed.addfile(member, io.BytesIO(text.encode()))


def test_an_archive_is_unpacked_once_until_it_changes(tmp_path: Path) -> None:
    archive = tmp_path / "env.tar.gz"
    pack(archive, ("bin/activate", ""), ("bin/python3.11", "#!"), ("bin/python3", "->python3.11"))
    store = EnvironmentStore()
    first = store.open(str(archive), tmp_path)
    assert Path(first.interpreter).read_text() == "#!"
    assert os.access(first.interpreter, os.X_OK)
    assert store.open(str(archive), tmp_path).interpreter == first.interpreter
    os.utime(archive, ns=(1, 1))
    second = store.open(str(archive), tmp_path)
    assert second.interpreter != first.interpreter
    store.close()
    assert not Path(first.interpreter).exists()
    assert not Path(second.interpreter).exists()
    store.close()


def test_one_archive_by_two_names_is_unpacked_once(tmp_path: Path) -> None:
    archive = tmp_path / "env.tar.gz"
    pack(archive, ("bin/activate", ""), ("bin/python", "#!"))
    link = tmp_path / "link.tar.gz"
    link.symlink_to(archive)
    store = EnvironmentStore()
    by_link, by_name = (store.open(str(path), tmp_path) for path in (link, archive))
    assert by_link.interpreter == by_name.interpreter
    store.close()


@pytest.mark.parametrize(
    "member",
    [
        ("../outside", "x"),
        ("/absolute", "x"),
        ("link", "->../../outside"),
        ("link", "->/etc/passwd"),
    ],
)
def test_an_archive_stays_where_it_is_unpacked(tmp_path: Path, member: tuple[str, str]) -> None:
    archive = tmp_path / "evil.tar.gz"
    pack(archive, ("bin/activate", ""), ("bin/python", "#!"), member)
    store = EnvironmentStore()
    try:
        made = store.open(str(archive), tmp_path)
    except ServerError as error:
        assert error.message.startswith(f"Failed to extract '{archive}': ")  # noqa: PT017  # or else
    else:
        # An absolute name is taken as a relative one.
        assert member[0] == "/absolute"
        assert (Path(made.interpreter).parents[1] / "absolute").read_text() == "x"
    store.close()
    assert not (tmp_path / "outside").exists()
    assert not Path("/absolute").exists()


def test_a_python_based_backend_brings_its_environment(tmp_path: Path) -> None:
    backend = tmp_path / "backends" / "mine"
    backend.mkdir(parents=True)
    pack(backend / "pb_exec_env_model.py.tar.gz", ("bin/activate", ""), ("bin/python", "#!"))
    spec = worker_spec(context(tmp_path), "{}", backend_directory=backend)
    assert Path(spec.interpreter).read_text() == "#!"


@pytest.mark.parametrize(
    "path", sorted(SOURCES.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCES))
)
def test_what_runs_in_a_worker_is_old_python_and_stands_alone(path: Path) -> None:
    if path.name in SERVER_SIDE:
        return
    source = path.read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    allowed = {*sys.stdlib_module_names, "numpy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").split(".")[0] in allowed
            assert {"override", "TypeAlias", "ParamSpec", "Self"}.isdisjoint(
                alias.name for alias in node.names
            )
