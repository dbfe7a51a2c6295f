"""Cases of model repositories, by number, over the wire: one server, which is asked to load.

What `test_backend_cases.py` lists has its tests in many places; here stands what only shows in a
server whose operator changes files under it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conformance import grpc_models
from tests.conformance.http_rest import Rest, tensor, wait_for

CORE: Final = 0
FLAGS: Final = (
    "--model-control-mode=explicit",
    "--log-verbose=1",
    "--model-load-retry-count=2",
    f"--host-policy=cpu,cpu-cores={CORE}-{CORE}",
)
ONNX: Final = grpc_models.SAMPLES / "simple" / "1" / "model.onnx"
IDENTITY: Final = """backend: "identity"
input { name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }
"""
# Answers with what its method `tell` says, as JSON. A model may have an `execute` of its own.
TELLING: Final = """
import json, os, pathlib, time
import numpy as np
import triton_python_backend_utils as pb_utils
NOTES = pathlib.Path({notes!r})
{more}
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer() for _ in requests]
    def answer(self):
        text = json.dumps(self.tell()).encode()
        return pb_utils.InferenceResponse([pb_utils.Tensor("TOLD", np.array([text], object))])
    {body}
"""
TOLD: Final = """
input { name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "TOLD" data_type: TYPE_STRING dims: [ 1 ] }
"""


class Site:
    """The repository, the server over it, and notes that its models leave."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.notes = folder / "notes"
        self.temporary = folder / "temporary"  # where the server makes directories of its own
        for each in (self.models, self.notes, self.temporary):
            each.mkdir()
        self.server: Any
        self.rest: Rest

    def identity(self, name: str, more: str = "", *, versions: tuple[int, ...] = (1,)) -> Path:
        for version in versions:
            (self.models / name / str(version)).mkdir(parents=True)
        config = self.models / name / "config.pbtxt"
        config.write_text(IDENTITY + more)
        return config

    def telling(self, name: str, body: str, *, more: str = "", config: str = TOLD) -> Path:
        code = TELLING.format(
            notes=str(self.notes), more=more, body=body.strip().replace("\n", "\n    ")
        )
        grpc_models.write_model(self.models, name, config, code)
        return self.models / name

    def order(self, name: str, what: str = "load", **parameters: str) -> tuple[int, str]:
        """Load or unload: the status, and what is wrong."""
        path = f"/v2/repository/models/{name}/{what}"
        response = self.rest.post(path, {"parameters": parameters} if parameters else b"")
        return response.status, response.error if response.body else ""

    def rows(self, name: str) -> list[tuple[str, str, str]]:
        """Version, state and reason of every version in the index."""
        return [
            (row.get("version", ""), row.get("state", ""), row.get("reason", ""))
            for row in self.rest.post("/v2/repository/index").json()
            if row["name"] == name
        ]

    def infer(self, name: str, *, version: str = "") -> tuple[int, str]:
        body = {"inputs": [tensor("IN", "FP32", [1], [1.5])]}
        path = f"/versions/{version}" if version else ""
        response = self.rest.post(f"/v2/models/{name}{path}/infer", body)
        return response.status, response.error if response.status != 200 else ""

    def told(self, name: str) -> Any:
        body = {"inputs": [tensor("IN", "FP32", [1], [1.5])]}
        return json.loads(self.rest.infer(name, body).json()["outputs"][0]["data"][0])


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    run_server: Callable[..., AbstractContextManager[Any]],
) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("cases"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(site.temporary))
        with run_server(site.models, *FLAGS) as site.server:
            site.rest = Rest(site.server.http)
            yield site
            site.rest.close()


# --- which versions ------------------------------------------------------------------------------


def test_case_01_the_highest_version_is_served_without_a_configuration(site: Site) -> None:
    for version in ("1", "2", "10"):
        (site.models / "numbered" / version).mkdir(parents=True)
        shutil.copy(ONNX, site.models / "numbered" / version)
    assert site.order("numbered") == (200, "")
    assert site.rows("numbered") == [("10", "READY", "")]


def test_case_02_directories_that_are_no_versions(site: Site) -> None:
    config = site.identity("odd", versions=(3,))
    for name in ("01", "configs", "warmup", "notes"):
        (config.parent / name).mkdir()
    assert site.order("odd") == (200, "")
    assert site.rows("odd") == [("3", "READY", "")]
    warned = [line for line in site.server.lines if "ignore version directory" in line]
    assert len(warned) == 2
    assert all(line.startswith("W") for line in warned)


def test_case_03_a_directory_of_another_name(site: Site) -> None:
    site.identity("named", 'name: "b"')
    status, error = site.order("named")
    assert status == 500
    assert error.startswith("failed to load 'named', failed to poll from model repository")
    site.server.wait_for(
        "unexpected directory name 'named' for model 'b', directory name must equal model name"
    )


def test_case_09_what_was_never_asked_for_is_a_name_only(site: Site) -> None:
    site.identity("untouched")
    assert site.rows("untouched") == [("", "", "")]
    assert site.rest.get("/v2/health/live").status == 200
    assert site.infer("untouched") == (
        404, "Request for unknown model: 'untouched' is not found",
    )  # fmt: skip


def test_case_11_versions_that_are_asked_for_and_not_there(site: Site) -> None:
    config = site.identity("chosen", "version_policy { specific { versions: [ 1, 9 ] } }")
    assert site.order("chosen") == (200, "")
    assert site.rows("chosen") == [("1", "READY", "")]
    site.server.wait_for(
        "version 9 is specified for model 'chosen', but the version directory is not present"
    )
    config.write_text(IDENTITY + "version_policy { specific { versions: 9 } }")
    none_left = "at least one version must be available under the version policy of model 'chosen'"
    assert site.order("chosen") == (400, f"load failed for model 'chosen': {none_left}\n")
    site.server.wait_for(none_left)
    assert site.infer("chosen") == (200, "")


def test_case_31_what_is_found_out_after_polling_is_said_of_the_version(site: Site) -> None:
    config = site.identity("late")
    config.write_text(IDENTITY.replace("dims: [ -1 ]", "dims: [ 0 ]", 1))
    zero = (
        "model input 'IN' dimension must be integer >= 1, or -1 to indicate a variable-size "
        "dimension for late"
    )
    status, error = site.order("late")
    assert status == 400
    assert error == (
        "load failed for model 'late': version 1 is at UNAVAILABLE state: "
        f"Invalid argument: {zero};\n"
    )
    assert site.rows("late") == [("1", "UNAVAILABLE", f"Invalid argument: {zero}")]
    config.write_text(IDENTITY + "max_batch_size: -1")
    status, error = site.order("late")
    assert (status, error.partition(": ")[0]) == (
        500, "failed to load 'late', failed to poll from model repository",
    )  # fmt: skip


def test_case_12_one_version_that_fails_is_all_that_fail(site: Site) -> None:
    directory = site.models / "half"
    for version in ("1", "2"):
        (directory / version).mkdir(parents=True)
    shutil.copy(ONNX, directory / "1")
    (directory / "2" / "model.onnx").write_bytes(b"no graph")
    (directory / "config.pbtxt").write_text(
        (grpc_models.SAMPLES / "simple" / "config.pbtxt").read_text().replace('"simple"', '"half"')
        + "\nversion_policy { all { } }"
    )
    status, error = site.order("half")
    assert status == 400
    assert error.startswith("load failed for model 'half': version 2 is at UNAVAILABLE state: ")
    assert error.endswith(";\n")
    assert "READY" not in {state for _, state, _ in site.rows("half")}


def test_case_13_what_is_corrupted_leaves_what_serves(site: Site) -> None:
    directory = site.models / "sound"
    shutil.copytree(grpc_models.SAMPLES / "simple", directory)
    config = directory / "config.pbtxt"
    config.write_text(config.read_text().replace('"simple"', '"sound"'))
    assert site.order("sound")[0] == 200
    (directory / "1" / "model.onnx").write_bytes(b"no graph")
    status, error = site.order("sound")
    assert status == 400
    assert "version 1 is at UNAVAILABLE state: " in error
    given = [tensor(name, "INT32", [1, 16], [2] * 16) for name in ("INPUT0", "INPUT1")]
    assert site.rest.infer("sound", {"inputs": given}).status == 200
    assert site.rows("sound") == [("1", "READY", "")]


# --- what an operator brings ---------------------------------------------------------------------


def test_case_18_a_configuration_that_came_with_a_load_stays(site: Site) -> None:
    site.identity("several", "version_policy { all { } }", versions=(1, 2, 3))

    def ready() -> list[str]:
        return [version for version, state, _ in site.rows("several") if state == "READY"]

    assert site.order("several")[0] == 200
    assert ready() == ["1", "2", "3"]
    config = {
        "backend": "identity",
        "version_policy": {"specific": {"versions": [2]}},
        "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [-1]}],
        "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [-1]}],
    }
    assert site.order("several", config=json.dumps(config))[0] == 200
    wait_for(lambda: ready() == ["2"])
    assert site.order("several")[0] == 200
    assert ready() == ["2"]
    assert site.order("several", "unload")[0] == 200
    assert site.order("several")[0] == 200
    assert ready() == ["1", "2", "3"]


def test_cases_19_and_20_files_that_came_with_a_load(site: Site) -> None:
    site.identity("brought", "version_policy { all { } }", versions=(1, 2))
    assert site.order("brought")[0] == 200
    refusal = "failed to load 'brought', failed to poll from model repository"
    file = base64.b64encode(b"x").decode()
    before = set(site.temporary.iterdir())

    status, error = site.order("brought", **{"file:1/weights": file})
    assert status == 500
    assert error.startswith(refusal)
    site.server.wait_for("Load parameter 'config' must be specified for model file override")
    config = json.dumps({
        "backend": "identity", "version_policy": {"all": {}},
        "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [-1]}],
        "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [-1]}],
    })  # fmt: skip
    status, error = site.order("brought", config=config, **{"file:../../x": file})
    assert status == 500
    assert error.startswith(refusal)
    assert set(site.temporary.iterdir()) == before
    assert not list(site.notes.parent.rglob("x"))
    assert site.infer("brought", version="1") == (200, "")
    assert site.infer("brought", version="2") == (200, "")

    assert site.order("brought", config=config, **{"file:7/weights": file}) == (200, "")
    assert site.infer("brought", version="7") == (200, "")
    assert site.infer("brought", version="1")[0] >= 400
    assert [path.read_bytes() for path in site.temporary.rglob("7/weights")] == [b"x"]
    assert site.order("brought", "unload")[0] == 200
    wait_for(lambda: set(site.temporary.iterdir()) == before)


def test_cases_21_and_23_names_that_no_model_has(site: Site) -> None:
    assert site.order("..%2Fa") == (
        400, "invalid model name '../a', model name must not contain path traversal characters",
    )  # fmt: skip
    assert site.order("%20") == (
        400, "Model name cannot be empty. Please enter a valid name to deploy.",
    )  # fmt: skip
    assert site.order("never_heard_of", "unload") == (200, "")


# --- while something is under way ----------------------------------------------------------------


def test_case_22_an_unload_does_not_wait_for_an_inference(site: Site) -> None:
    site.telling(
        "busy",
        """
def tell(self):
    (NOTES / "began").touch()
    while not (NOTES / "go on").exists():
        time.sleep(0.002)
    return "done"
""",
    )
    assert site.order("busy")[0] == 200
    told: list[Any] = []

    def ask() -> None:
        rest = Rest(site.server.http)
        body = {"inputs": [tensor("IN", "FP32", [1], [1.5])]}
        told.append(rest.infer("busy", body).json()["outputs"][0]["data"][0])
        rest.close()

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for((site.notes / "began").exists)
    assert site.order("busy", "unload") == (200, "")
    assert site.rows("busy") == [("1", "UNLOADING", "")]
    status, error = site.infer("busy")
    assert status in (400, 404, 503)
    assert error.startswith("Request for unknown model: 'busy'")
    (site.notes / "go on").touch()
    asking.join()
    assert told == ['"done"']
    wait_for(lambda: site.rows("busy") == [("1", "UNAVAILABLE", "unloaded")])


def test_case_66_a_model_that_is_loading_is_not_waited_for(site: Site) -> None:
    site.telling(
        "slow",
        """
def initialize(self, args):
    (NOTES / "loading").touch()
    while not (NOTES / "load on").exists():
        time.sleep(0.002)
def tell(self):
    return "loaded"
""",
    )
    loaded: list[int] = []

    def load() -> None:
        rest = Rest(site.server.http)
        loaded.append(rest.post("/v2/repository/models/slow/load").status)
        rest.close()

    loading = threading.Thread(target=load)
    loading.start()
    wait_for((site.notes / "loading").exists)
    assert [state for _, state, _ in site.rows("slow")] == ["LOADING"]
    status, error = site.infer("slow")
    assert status in (404, 503)
    assert error.startswith("Request for unknown model: 'slow'")
    (site.notes / "load on").touch()
    loading.join()
    assert loaded == [200]
    assert site.told("slow") == "loaded"


def test_case_27_a_model_that_fails_twice_and_then_loads(site: Site) -> None:
    site.telling(
        "moody",
        """
def initialize(self, args):
    with (NOTES / "attempts").open("a") as file:
        file.write("x")
    if len((NOTES / "attempts").read_text()) < 3:
        raise pb_utils.TritonModelException("not now")
def tell(self):
    return len((NOTES / "attempts").read_text())
""",
    )
    assert site.order("moody") == (200, "")
    assert site.rows("moody") == [("1", "READY", "")]
    assert site.told("moody") == 3


# --- Python models -------------------------------------------------------------------------------


def test_case_41_models_do_not_share_what_lies_beside_them(site: Site) -> None:
    for name in ("first", "second"):
        tell = "def tell(self):\n    return [mine.NAME, file1.NAME, file2.NAME]"
        more = "import file1, helper as mine\nfrom . import file2"
        version = site.telling(name, tell, more=more) / "1"
        (version / "helper.py").write_text(f"NAME = {name!r}")
        (version / "file1.py").write_text("NAME = 1")
        (version / "file2.py").write_text("NAME = 2")
        assert site.order(name) == (200, "")
    assert site.told("first") == ["first", 1, 2]
    assert site.told("second") == ["second", 1, 2]


def test_cases_42_and_64_what_an_instance_is_told_and_where_it_runs(site: Site) -> None:
    body = """
def initialize(self, args):
    self.args = dict(args)
def tell(self):
    return [self.args, sorted(os.sched_getaffinity(0))]
"""
    grouped = TOLD + "instance_group { kind: KIND_CPU }"
    directory = site.telling("placed", body, config=grouped)
    assert site.order("placed") == (200, "")
    args, cores = site.told("placed")
    config = json.loads(args.pop("model_config"))
    assert config["instance_group"][0]["name"] == "placed_0"
    assert args == {
        "model_instance_kind": "CPU",
        "model_instance_name": "placed_0_0",
        "model_instance_device_id": "0",
        "model_repository": str(directory),
        "model_version": "1",
        "model_name": "placed",
    }
    assert cores == [CORE]

    site.identity("threaded")
    assert site.order("threaded") == (200, "")
    assert site.infer("threaded") == (200, "")
    tasks = Path(f"/proc/{site.server.process.pid}/task").iterdir()
    bound = [os.sched_getaffinity(int(task.name)) for task in tasks]
    assert {CORE} in bound, "the thread of an instance"
    assert os.sched_getaffinity(site.server.process.pid) == os.sched_getaffinity(0)


def test_case_43_a_model_that_completes_its_configuration(site: Site) -> None:
    directory = site.telling(
        "complete",
        """
@staticmethod
def auto_complete_config(config):
    config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [-1]})
    config.add_output({"name": "TOLD", "data_type": "TYPE_STRING", "dims": [1]})
    config.set_max_batch_size(8)
    config.set_dynamic_batching()
    return config
def tell(self):
    return 1
""",
    )
    (directory / "config.pbtxt").unlink()
    assert site.order("complete") == (200, "")
    config = site.rest.get("/v2/models/complete/config").json()
    assert [each["name"] for each in config["input"]] == ["IN"]
    assert config["output"][0]["data_type"] == "TYPE_STRING"
    assert config["max_batch_size"] == 8
    assert config["dynamic_batching"]["preferred_batch_size"] == [8]


def test_case_58_a_model_that_says_it_is_not_ready_still_answers(site: Site) -> None:
    site.telling("shy", "def is_ready(self):\n    return False\ndef tell(self):\n    return 1")
    assert site.order("shy") == (200, "")
    response = site.rest.get("/v2/models/shy/ready")
    assert (response.status, response.error) == (400, "Model version not ready")
    assert site.told("shy") == 1


def test_case_60_samples_of_a_warm_up_run_as_batches_on_every_instance(site: Site) -> None:
    body = """
sizes = []
def execute(self, requests):
    self.sizes.append(len(requests))
    return [self.answer() for _ in requests]
def tell(self):
    return self.sizes
"""
    config = """
input { name: "IN" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "TOLD" data_type: TYPE_STRING dims: [ 1 ] }
max_batch_size: 8
instance_group { kind: KIND_CPU count: 2 }
model_warmup {
  name: "sample" batch_size: 8 count: 2
  inputs { key: "IN" value { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } }
}
"""
    directory = site.telling("warm", body, config=config)
    assert site.order("warm") == (200, "")
    for instance in ("warm_0_0", "warm_0_1"):
        said = f"model 'warm' instance {instance} is running warmup sample 'sample' for iteration "
        site.server.wait_for(said, times=2)
        assert sum(said in line for line in site.server.lines) == 2
    given = {"inputs": [tensor("IN", "FP32", [1, 1], [1.5])]}
    told = site.rest.infer("warm", given).json()["outputs"][0]["data"][0]
    assert json.loads(told) == [8, 8, 1]

    code = directory / "1" / "model.py"
    code.write_text(
        code.read_text().replace(
            "self.sizes.append(len(requests))", "raise pb_utils.TritonModelException('cold')"
        )
    )
    status, error = site.order("warm")
    assert status == 400
    assert "failed to run warmup sample 'sample': " in error
    assert "TritonModelException: cold" in error
