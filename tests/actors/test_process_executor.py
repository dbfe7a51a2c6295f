"""ProcessExecutor with real workers: loading, executing, and what goes wrong in a model."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from actors.policy.lead import MOST
from actors.processes.executor import ProcessExecutor
from actors.street.executor import Executor, execute
from protocol.datatypes import Array
from protocol.inference import InferResponse, SequenceFlag, Tensor
from protocol.status import ServerError, StatusCode
from repo.backends.base import Timings
from repo.backends.python.environment import EnvironmentStore
from repo.backends.python.launch import WorkerSpec
from tests.actors.process_rig import load_error, model_spec, request, running

DOUBLE = """
def execute(self, requests):
    return [answer(value(r) * 2) for r in requests]
"""


async def test_a_batch_is_executed_and_timed(tmp_path: Path) -> None:
    async with running(model_spec(tmp_path, DOUBLE)) as rig:
        timings = Timings()
        outcomes = await execute(rig.executor, [request([1, 2], id="a"), request([3])], timings)

        first, second = outcomes
        assert isinstance(first, InferResponse)
        assert isinstance(second, InferResponse)
        assert (first.model_name, first.model_version, first.id) == ("m", "1", "a")
        assert first.outputs[0].name == "OUT"
        assert first.outputs[0].datatype == "INT32"
        assert first.outputs[0].array.tolist() == [2, 4]
        assert second.outputs[0].array.tolist() == [6]
        assert min(timings.input_ns, timings.infer_ns, timings.output_ns) > 0
        assert await rig.executor.is_ready()
    assert not await rig.executor.is_ready()


def test_it_is_an_executor() -> None:
    executor: Executor = ProcessExecutor(
        lambda: pytest.fail("nothing is started"), log=lambda *_: None
    )
    assert executor.depth == MOST


async def test_as_many_batches_as_it_takes_may_be_in_flight(tmp_path: Path) -> None:
    answers: dict[int, object] = {}
    async with running(model_spec(tmp_path, DOUBLE)) as rig:

        async def ask(number: int) -> None:
            answers[number] = await rig.infer([number])

        async with trio.open_nursery() as nursery:
            for number in range(rig.executor.depth):
                nursery.start_soon(ask, number)
    assert answers == {number: [2 * number] for number in range(rig.executor.depth)}


ARRAYS: tuple[Array, ...] = (
    np.array([[True, False]]),
    np.arange(6, dtype=np.uint8).reshape(2, 3),
    np.arange(5, dtype=np.uint16),
    np.arange(5, dtype=np.uint32),
    np.arange(5, dtype=np.uint64),
    np.arange(5, dtype=np.int8),
    np.arange(5, dtype=np.int16),
    np.arange(5, dtype=np.int64),
    np.linspace(0, 1, 7, dtype=np.float16),
    np.linspace(0, 1, 7, dtype=np.float64),
    np.zeros((0, 4), np.float32),
    np.array(7.5, np.float32),
    np.array([b"a", b"", b"\0\xff"], np.object_),
    np.arange(300_000, dtype=np.float32).reshape(3, -1),
    np.array([b"x" * 100_000, b"y"], np.object_),
)


async def test_every_kind_of_tensor_survives_both_ways(tmp_path: Path) -> None:
    spec = model_spec(tmp_path, "def execute(self, rs): return [answer(value(r)) for r in rs]")
    async with running(spec) as rig:
        singly = [(await rig.outcomes(request(array)))[0] for array in ARRAYS]
        together = await rig.outcomes(*map(request, ARRAYS))

    for outcomes in (singly, together):
        for array, outcome in zip(ARRAYS, outcomes, strict=True):
            assert isinstance(outcome, InferResponse)
            (output,) = outcome.outputs
            assert output.array.dtype == array.dtype
            assert output.shape == array.shape
            assert output.array.tolist() == array.tolist()


async def test_a_batch_too_long_for_a_packet_goes_through_shared_memory(tmp_path: Path) -> None:
    array = np.arange(5_000, dtype=np.float32)  # 20 kB: inline each, but not 32 of them
    async with running(model_spec(tmp_path, DOUBLE)) as rig:
        for _ in range(3):
            outcomes = await rig.outcomes(*[request(array + n) for n in range(32)])
            for number, outcome in enumerate(outcomes):
                assert isinstance(outcome, InferResponse)
                assert np.array_equal(outcome.outputs[0].array, (array + number) * 2)


async def test_inputs_are_private_writable_and_may_be_kept(tmp_path: Path) -> None:
    """Upstream models write in place; some keep what they got, though Triton warns of it."""
    body = """
    kept = []
    def execute(self, requests):
        for r in requests:
            array = value(r)
            array += 1
            self.kept.append(array)
        return [answer(np.array([float(a.ravel()[0]) for a in self.kept])) for r in requests]
    """
    sent = [np.full(size, n, np.float32) for n, size in enumerate((4, 50_000, 4, 50_000, 50_000))]
    async with running(model_spec(tmp_path, body)) as rig:
        answers = [await rig.infer(array) for array in sent]
    assert answers[-1] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [array.ravel()[0] for array in sent] == [0, 1, 2, 3, 4]


async def test_outputs_may_be_kept_by_the_receiver(tmp_path: Path) -> None:
    async with running(model_spec(tmp_path, DOUBLE)) as rig:
        kept = []
        for number in range(12):
            (outcome,) = await rig.outcomes(request(np.full(50_000, number, np.int32)))
            assert isinstance(outcome, InferResponse)
            kept.append(outcome.outputs[0])
    # Their memory outlives the worker, too.
    assert [int(tensor.array[0]) for tensor in kept] == [2 * n for n in range(12)]
    assert bytes(kept[3].raw) == np.full(50_000, 6, np.int32).tobytes()


async def test_a_model_sees_what_its_request_carries(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        return [answer(np.array([repr((
            r.request_id(), r.correlation_id(), r.flags(), r.timeout(), r.parameters(),
            sorted(r.requested_output_names()), r.is_cancelled(), r.trace().get_context(),
            [(t.name(), t.shape(), t.triton_dtype(), t.is_cpu()) for t in r.inputs()],
        ))], object)) for r in requests]
    """
    inputs = [Tensor.from_array("A", np.zeros((1, 2), np.float32))]
    inputs.append(Tensor.from_array("B", np.array([b"b"], np.object_)))
    asked = request(
        inputs=inputs,
        id="r1",
        correlation_id="seq",
        sequence_flags=SequenceFlag.START | SequenceFlag.END,
        timeout_us=250,
        parameters={"t": 1.5, "b": True, "s": "x"},
        requested_outputs=("OUT",),
    )
    async with running(model_spec(tmp_path, body)) as rig:
        full, bare, numbered = await rig.run(asked, request([1]), request([1], correlation_id=7))

    tensors = [("A", [1, 2], 11, True), ("B", [1], 13, True)]
    parameters = '{"t": 1.5, "b": true, "s": "x"}'
    expected = ("r1", "seq", 3, 250, parameters, ["OUT"], False, None, tensors)
    assert full == [repr(expected).encode()]
    no_parameters: list[str] = []
    nothing = ("", 0, 0, 0, "{}", no_parameters, False, None, [("IN", [1], 8, True)])
    assert bare == [repr(nothing).encode()]
    assert numbered == [repr(("", 7, *nothing[2:])).encode()]


async def test_outputs_nobody_asked_for_are_pruned_and_parameters_passed_on(
    tmp_path: Path,
) -> None:
    body = """
    def execute(self, requests):
        outputs = [pb_utils.Tensor("OUT%d" % n, np.array([n])) for n in range(3)]
        parameters = {"p": 1, "q": "x", "r": False}
        return [pb_utils.InferenceResponse(outputs, parameters=parameters) for r in requests]
    """
    async with running(model_spec(tmp_path, body)) as rig:
        some, every = await rig.outcomes(
            request([1], requested_outputs=("OUT2", "OUT0", "GONE")), request([1])
        )
    assert isinstance(some, InferResponse)
    assert isinstance(every, InferResponse)
    assert [tensor.name for tensor in some.outputs] == ["OUT0", "OUT2"]
    assert [tensor.name for tensor in every.outputs] == ["OUT0", "OUT1", "OUT2"]
    assert some.parameters == {"p": 1, "q": "x", "r": False}


# --- what goes wrong in execute ------------------------------------------------------------------

PREFIX = "Failed to process the request(s) for model 'm_0_0', message: "

REFUSED = """
class Other: pass

def execute(self, requests):
    what = value(requests[0])[0].decode()
    if what == "ok":
        return [answer(np.array([1])) for r in requests]
    if what == "raise":
        raise ValueError("no good")
    if what == "exit":
        sys.exit(3)
    if what == "triton":
        raise pb_utils.TritonModelException("mine")
    return eval(what)
"""


async def test_what_execute_may_not_return_fails_the_batch_and_nothing_else(tmp_path: Path) -> None:
    expected = {
        "5": "Expected a list in the execute return, found type '<class 'int'>'.",
        "[answer([1])]": (
            "Number of InferenceResponse objects do not match the number of InferenceRequest "
            "objects. InferenceRequest(s) size is:2, and InferenceResponse(s) size is:1\n"
        ),
        "[answer([1]), 7]": (
            "Expected an 'InferenceResponse' object in the execute function return list, found "
            "type '<class 'int'>'."
        ),
    }
    path = tmp_path / "m" / "1" / "model.py"
    async with running(model_spec(tmp_path, REFUSED)) as rig:

        async def both(what: str) -> object:
            one = request(np.array([what.encode()], np.object_))
            first, second = await rig.run(one, request(np.array([b""], np.object_)))
            assert first == second
            return first

        for what, text in expected.items():
            assert await both(what) == PREFIX + text
        lines = path.read_text().splitlines()
        for what, text in (
            ("raise", "ValueError: no good"),
            ("exit", "SystemExit: 3"),
            ("triton", "TritonModelException: mine"),
        ):
            line = 2 + lines.index(f'        if what == "{what}":')
            assert await both(what) == f"{PREFIX}{text}\n\nAt:\n  {path}({line}): execute\n"
        assert await both("ok") == [1]


async def test_one_response_may_be_an_error_with_any_code(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        codes = ["UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED",
                 "ALREADY_EXISTS", "CANCELLED"]
        errors = [pb_utils.TritonError(c, getattr(pb_utils.TritonError, c)) for c in codes]
        out = [pb_utils.InferenceResponse(error=error) for error in errors]
        return out + [answer([1]), pb_utils.InferenceResponse([], pb_utils.TritonError("plain"))]
    """
    async with running(model_spec(tmp_path, body)) as rig:
        *errors, fine, plain_error = await rig.outcomes(*[request([1]) for _ in range(10)])
    for error in errors:
        assert isinstance(error, ServerError)
        assert error.status is StatusCode[error.message]
    assert isinstance(fine, InferResponse)
    assert isinstance(plain_error, ServerError)
    assert plain_error.status is StatusCode.INTERNAL


async def test_an_output_that_cannot_be_encoded_fails_the_batch(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        return [answer(np.array([chr(0xD800)], object)) for r in requests]
    """
    async with running(model_spec(tmp_path, body)) as rig:
        text = await rig.infer([1])
    assert isinstance(text, str)
    assert text.startswith(PREFIX + "UnicodeEncodeError: 'utf-8' codec can't encode")


async def test_a_model_without_execute_says_so_per_request(tmp_path: Path) -> None:
    async with running(model_spec(tmp_path, "pass")) as rig:
        path = tmp_path / "m" / "1" / "model.py"
        text = f"{PREFIX}Python model {path} does not implement `execute` method."
        assert await rig.infer([1]) == text


async def test_async_execute_is_awaited_one_batch_at_a_time(tmp_path: Path) -> None:
    body = """
    running = 0
    async def execute(self, requests):
        import asyncio
        self.running += 1
        seen = self.running
        await asyncio.sleep(0.001)
        self.running -= 1
        if value(requests[0])[0] < 0:
            raise KeyError("minus")
        return [answer([seen]) for r in requests]
    """
    async with running(model_spec(tmp_path, body)) as rig:
        assert await rig.run(request([1]), request([2])) == [[1], [1]]
        failed = await rig.infer([-1])
        assert str(failed).startswith(PREFIX + "KeyError: 'minus'\n\nAt:\n")
        assert await rig.infer([1]) == [1]


# --- loading and ending --------------------------------------------------------------------------


async def test_a_model_that_does_not_load_gives_its_reason(tmp_path: Path) -> None:
    spec = model_spec(tmp_path, "def initialize(self, args): raise ValueError('bad weights')")
    path = tmp_path / "m" / "1" / "model.py"
    line = len(path.read_text().splitlines())

    error = await load_error(spec)

    assert error.status is StatusCode.INTERNAL
    assert error.message == f"ValueError: bad weights\n\nAt:\n  {path}({line}): initialize\n"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"file_name": "gone.py"}, "Python model file not found in '{0}/m/1/gone.py'"),
        (
            {"file_name": "model.txt"},
            "Model name must end with '.py'. Model name is \"model.txt\".",
        ),
    ],
)
async def test_a_model_file_has_to_be_there(
    tmp_path: Path, changes: dict[str, str], text: str
) -> None:
    error = await load_error(model_spec(tmp_path, "pass", **changes))
    assert error.message == text.format(tmp_path)


async def test_a_worker_that_dies_while_loading_is_not_healthy(tmp_path: Path) -> None:
    error = await load_error(model_spec(tmp_path, "def initialize(self, args): os._exit(1)"))
    assert error.status is StatusCode.INTERNAL
    assert error.message == "Stub process 'm_0_0' is not healthy."


async def test_an_interpreter_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    spec = model_spec(tmp_path, "pass")
    spec = WorkerSpec("/nowhere/python", spec.environment, spec.load)
    error = await load_error(spec)
    assert error.message.startswith("Failed to start the worker of model instance 'm_0_0': ")


async def test_initialize_gets_strings_and_finalize_is_called_at_the_end(tmp_path: Path) -> None:
    body = """
    def initialize(self, args):
        print(sorted(args.items()))
        print(pb_utils.get_model_dir(), __name__, __file__, file=sys.stderr)

    def finalize(self):
        print("finalized", end="")
    """
    async with running(model_spec(tmp_path, body)) as rig:
        level, line = await rig.logged("model_config")
        assert level == "INFO"
        expected = {
            "model_config": '{"name": "m"}',
            "model_instance_kind": "CPU",
            "model_instance_name": "m_0_0",
            "model_instance_device_id": "0",
            "model_repository": str(tmp_path / "m"),
            "model_version": "1",
            "model_name": "m",
        }
        assert line == str(sorted(expected.items()))
        level, line = await rig.logged("1.model")
        directory = tmp_path / "m" / "1"
        assert level == "WARNING"
        assert line == f"{directory} 1.model {directory / 'model.py'}"
    assert ("INFO", "finalized") in rig.lines


async def test_a_failing_finalize_is_only_logged(tmp_path: Path) -> None:
    spec = model_spec(tmp_path, "def finalize(self): raise ValueError('late')")
    async with running(spec) as rig:
        pass
    assert any(level == "ERROR" and "ValueError: late" in line for level, line in rig.lines)


async def test_a_model_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    """Both as `import beside` and relatively, and from the model directory; see also the package
    `wire`, which is the model's own and not the worker's."""
    head = """
import beside
from . import beside as relative
from package.deep import DEEP
from wire import WIRE
import c_python_backend_utils, triton_python_backend_utils as pb_utils
assert c_python_backend_utils.Tensor is pb_utils.Tensor
class TritonPythonModel:
"""
    body = """
    def execute(self, requests):
        text = repr((beside.NAME, relative.NAME, DEEP, WIRE))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([text], object))])]
    """
    spec = model_spec(tmp_path, body, head="import numpy as np\n" + head)
    version = tmp_path / "m" / "1"
    (version / "beside.py").write_text("NAME = __name__")
    (version / "wire.py").write_text("WIRE = 'mine'")
    (tmp_path / "m" / "package").mkdir()
    (tmp_path / "m" / "package" / "deep.py").write_text("DEEP = __name__")
    async with running(spec) as rig:
        answer = await rig.infer([1])
    assert answer == [repr(("beside", "1.beside", "package.deep", "mine")).encode()]


async def test_a_python_based_backend_is_imported_from_its_own_directory(tmp_path: Path) -> None:
    backend = tmp_path / "backend"
    backend.mkdir()
    source = model_spec(
        tmp_path,
        """
        def execute(self, requests):
            text = __name__ + " " + pb_utils.get_model_dir()
            return [answer(np.array([text], object)) for r in requests]
        """,
        module_directory=str(backend),
    )
    (tmp_path / "m" / "1" / "model.py").rename(backend / "model.py")
    async with running(source) as rig:
        assert await rig.infer([1]) == [f"model {tmp_path}/m/1".encode()]


async def test_a_worker_runs_in_the_environment_that_its_model_names(tmp_path: Path) -> None:
    directory = tmp_path / "env"
    (directory / "bin").mkdir(parents=True)
    (directory / "bin" / "activate").touch()
    interpreter = directory / "bin" / "python3"
    interpreter.write_text(f'#!/bin/sh\nMARK=mine exec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    body = """
    def execute(self, requests):
        found = [os.environ.get("MARK"), os.environ["VIRTUAL_ENV"], os.environ["LD_LIBRARY_PATH"]]
        return [answer(np.array(found, object)) for r in requests]
    """
    spec = model_spec(tmp_path, body)
    made = EnvironmentStore().open(str(directory), tmp_path)
    async with running(WorkerSpec(made.interpreter, made.variables, spec.load)) as rig:
        found = await rig.infer([1])
    assert isinstance(found, list)
    assert found[:2] == [b"mine", str(directory).encode()]
    assert found[2].startswith(str(directory / "lib").encode())


async def test_stop_lets_what_is_inside_finish(tmp_path: Path) -> None:
    body = """
    def execute(self, requests):
        while not os.path.exists(os.path.join(pb_utils.get_model_dir(), "go")):
            time.sleep(0.001)
        return [answer([1]) for r in requests]
    def finalize(self):
        print("finalized")
    """
    answers = []
    async with trio.open_nursery() as nursery, running(model_spec(tmp_path, body)) as rig:

        async def ask() -> None:
            answers.append(await rig.infer([1]))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        rig.executor.stop()
        (tmp_path / "m" / "1" / "go").touch()
    assert answers == [[1]]
    assert ("INFO", "finalized") in rig.lines


async def test_a_model_that_does_not_finalize_is_killed_after_the_grace_period(
    tmp_path: Path,
) -> None:
    spec = model_spec(tmp_path, "def finalize(self): time.sleep(60)")
    started_at = trio.current_time()
    async with running(spec, grace_seconds=0.05):
        pass
    assert trio.current_time() - started_at < 30


async def test_cancelling_ends_the_process_at_once(tmp_path: Path) -> None:
    body = """
    def initialize(self, args): print("pid", os.getpid())
    def execute(self, requests): time.sleep(60)
    """
    with trio.CancelScope(deadline=trio.current_time() + 20) as scope:
        async with running(model_spec(tmp_path, body)) as rig:
            _, line = await rig.logged("pid")
            scope.cancel()
            await trio.sleep_forever()
    with pytest.raises(ProcessLookupError):
        os.kill(int(line.split()[-1]), 0)


async def test_the_worker_has_only_what_it_needs(tmp_path: Path) -> None:
    """A worker must not import trio or protobuf, nor anything by Troupe's names."""
    body = """
    def execute(self, requests):
        loaded = {name.split(".")[0] for name in sys.modules}
        bad = loaded & {"trio", "google", "betterproto", "protocol", "repo", "actors", "asyncio"}
        fds = sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in range(3, 30)
                     if os.path.exists(f"/proc/self/fd/{fd}"))
        return [answer(np.array([repr((sorted(bad), "" in sys.path, fds))], object))]
    """
    async with running(model_spec(tmp_path, body)) as rig:
        assert await rig.infer([1]) == [repr(([], False, ["/memfd", "socket", "socket"])).encode()]
