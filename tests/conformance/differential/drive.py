"""Asks one server everything, and writes down what it says in a form that can be compared.

Owns the clients, the copy of the models that a server is given, and the scrubbing of what differs
between two runs: paths, and nothing else. What a server says is never judged here. A server that
ends over a question may be replaced by another (`Revive`), which is then asked the same once more.
"""

from __future__ import annotations

import json
import queue
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from asks import MODELS, PROBES, TOGETHER, Ask, asks, word
from tritonclient.utils import InferenceServerException

Record = dict[str, Any]
"""By key, what the server said: plain JSON values."""

# An answer that has not come by then does not come.
ANSWER_SECONDS: Final = 10.0
STREAM_SECONDS: Final = 20.0
LOAD_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.005
# So long after its connections a server that crashes may still be there.
ENDING_SECONDS: Final = 2.0
# Values beyond these are told by their number and their ends.
SHOWN_VALUES: Final = 24
SHOWN_CHARACTERS: Final = 1000

THE_SERVER_ENDS: Final = {"no answer": "the server ends"}
# Models of whose answers something is left to be looked at when everything has been asked.
SEEN_LATER: Final = ("metrics", "histograms")

# Frames of Triton's own utilities in a traceback.
_UTILITIES: Final = re.compile(r"  \S*triton_python_backend_utils\.py\(\d+\): \w+\n")
_ADDRESS: Final = re.compile(r"at 0x[0-9a-f]+")
_LOGGED: Final = re.compile(r"^(\w).*?((?:logged|printed|and in line) [\w ]+)")


@dataclass(frozen=True)
class Addresses:
    """Where a server listens, each host:port."""

    http: str
    grpc: str
    metrics: str


Revive = Callable[[float], Addresses | None]
"""Asked whether the server ends within so many seconds; if so it is replaced, and the answer is
where the new one listens. None says that it lives."""


def lives_on(_: float) -> None:
    """The Revive of a server that must not end."""


def models() -> list[str]:
    return sorted(path.name for path in MODELS.iterdir())


def copy_models(repository: Path) -> None:
    """A repository of all models, each with the module that they share beside its model.py.

    Triton's stub takes no notice of PYTHONPATH.
    """
    shutil.copytree(MODELS, repository)
    for model in models():
        shutil.copy(PROBES, repository / model / "1")


class Driver:
    """See the module's docstring; `repository` is the server's copy of `models/`.

    What is in `fatal` is not asked: the server is known to end from it.
    """

    def __init__(
        self,
        addresses: Addresses,
        *,
        repository: Path,
        fatal: Collection[str] = (),
        revive: Revive = lives_on,
    ) -> None:
        self._repository = repository
        self._fatal = fatal
        self._revive = revive
        self._loaded: list[str] = []
        self._asked: list[Ask] = []
        self.record: Record = {}
        self.ended: list[str] = []  # the keys over which the server ended, once for each time
        self._connect(addresses)

    def _connect(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._grpc = grpcclient.InferenceServerClient(addresses.grpc)
        self._http = httpclient.InferenceServerClient(
            addresses.http, network_timeout=ANSWER_SECONDS
        )

    def close(self) -> None:
        self._grpc.close()
        self._http.close()

    def run(self) -> Record:
        """Load every model, ask everything, unload every model."""
        for model in models():
            self._put(f"{model}/load", partial(self._load, model), model)
        for ask in asks():
            if ask.key in self._fatal:
                self._note(ask.key, THE_SERVER_ENDS)
                continue
            for key, call in self._calls(ask):
                self._put(key, call, ask.model)
            self._asked.append(ask)
        for together in TOGETHER:
            key = f"batches/{together.what}"
            self._put(key, partial(self._together, together.asks), "batches")
        self._put("cancels/seen", self._cancelled, "cancels")
        self._put("metrics/page", self._metrics, "metrics")
        for model in models():
            self._put(f"{model}/unload", partial(self._unload, model), model)
        return self.record

    def _calls(self, ask: Ask) -> Iterator[tuple[str, Callable[[], object]]]:
        """What is asked for a question, each with its key."""
        if ask.is_stream:
            yield ask.key, partial(self._stream, ask)
            return
        yield ask.key, partial(self._infer, ask)
        if ask.over_http:
            yield f"{ask.key}:http", partial(self._infer_http, ask)

    def _put(self, key: str, call: Callable[[], object], model: str) -> None:
        """Ask once, and once more if the server ends over it; note the answer."""
        for _ in range(2):
            said = self._attempt(call)
            if not self._came_back(said, model):
                break
            self.ended.append(key)
        else:
            said = THE_SERVER_ENDS
        self._note(key, said)

    def _came_back(self, said: object, model: str) -> bool:
        """Whether the server ended over what it `said`; another stands in its place then.

        That one is told again what the model heard and took before, unless it ends of that as
        well. What raised left nothing behind.
        """
        patience = ENDING_SECONDS if "UNAVAILABLE" in str(said) or _is_silence(said) else 0.0
        addresses = self._revive(patience)
        if addresses is None:
            return False
        self._replace(addresses)
        for ask in self._asked:
            if ask.model in {model, *SEEN_LATER} and _was_taken(self.record[ask.key]):
                for _, call in self._calls(ask):
                    self._attempt(call)
        addresses = self._revive(0.0)
        if addresses is not None:
            self._replace(addresses)
        return True

    def _replace(self, addresses: Addresses) -> None:
        self.close()
        self._connect(addresses)
        for model in self._loaded.copy():
            self._attempt(partial(self._load, model))

    def log_lines(self, log: str) -> None:
        """What models wrote into the server's log: the level's letter, and their text.

        Each line once: a server that was started again has loaded its models again.
        """
        found = {match.groups() for line in log.splitlines() if (match := _LOGGED.search(line))}
        self._note("logs/lines", sorted(list(one) for one in found))

    def _note(self, key: str, said: object) -> None:
        assert key not in self.record, key
        self.record[key] = self._plain(json.loads(json.dumps(said)))

    def _plain(self, value: object) -> object:
        """Any text in it scrubbed, and cut where it is long."""
        if isinstance(value, str):
            return _short(self._scrub(value))
        if isinstance(value, list):
            return [self._plain(one) for one in value]
        if isinstance(value, dict):
            return {key: self._plain(one) for key, one in value.items()}
        return value

    def _scrub(self, text: str) -> str:
        text = text.replace(str(self._repository), "REPOSITORY")
        return _ADDRESS.sub("at ADDRESS", _UTILITIES.sub("", text))

    def _attempt(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except InferenceServerException as error:
            return _refusal(error)
        except (OSError, TimeoutError) as error:
            return {"no answer": type(error).__name__}

    # --- models ----------------------------------------------------------------------------------

    def _load(self, model: str) -> object:
        self._grpc.load_model(model, client_timeout=LOAD_SECONDS)
        if model not in self._loaded:
            self._loaded.append(model)
        config = self._grpc.get_model_config(model, as_json=True)["config"]
        return {
            "config": {key: config[key] for key in sorted(config)},
            "metadata": self._grpc.get_model_metadata(model, as_json=True),
            "ready": self._grpc.is_model_ready(model),
        }

    def _unload(self, model: str) -> object:
        self._grpc.unload_model(model, client_timeout=LOAD_SECONDS)
        self._loaded = [other for other in self._loaded if other != model]
        return {"ready": self._grpc.is_model_ready(model)}

    # --- requests --------------------------------------------------------------------------------

    def _infer(self, ask: Ask) -> object:
        answer = self._grpc.infer(client_timeout=ANSWER_SECONDS, **_arguments(grpcclient, ask))
        return _answer(answer.get_response(), answer)

    def _infer_http(self, ask: Ask) -> object:
        answer = self._http.infer(**_arguments(httpclient, ask))
        return _answer_http(answer.get_response(), answer)

    def _stream(self, ask: Ask) -> object:
        """Everything that comes until the server has ended the stream."""
        arrived: queue.SimpleQueue[object] = queue.SimpleQueue()

        def heard(result: Any, error: InferenceServerException | None) -> None:
            arrived.put(_refusal(error) if error else _answer(result.get_response(), result))

        self._grpc.start_stream(heard, stream_timeout=STREAM_SECONDS)
        try:
            arguments = _arguments(grpcclient, ask)
            self._grpc.async_stream_infer(enable_empty_final_response=True, **arguments)
        finally:
            self._grpc.stop_stream()
        found = []
        while not arrived.empty():
            found.append(arrived.get())
        return found

    def _together(self, group: Sequence[Ask]) -> object:
        answers: list[queue.SimpleQueue[object]] = []
        for ask in group:
            arrived: queue.SimpleQueue[object] = queue.SimpleQueue()
            answers.append(arrived)

            def heard(
                result: Any,
                error: InferenceServerException | None,
                put: Callable[[object], None] = arrived.put,
            ) -> None:
                put(_refusal(error) if error else _answer(result.get_response(), result))

            arguments = _arguments(grpcclient, ask)
            self._grpc.async_infer(callback=heard, client_timeout=ANSWER_SECONDS, **arguments)
        return [one.get(timeout=2 * ANSWER_SECONDS) for one in answers]

    def _cancelled(self) -> object:
        """A request is cancelled while its model waits for that; what the model saw."""
        arrived: queue.SimpleQueue[object] = queue.SimpleQueue()

        def heard(result: Any, error: InferenceServerException | None) -> None:  # noqa: ARG001  # the client names it
            arrived.put(_refusal(error) if error else "answered")

        started = self._repository / "cancels" / "1" / "started"
        call = self._grpc.async_infer(
            callback=heard,
            **_arguments(grpcclient, Ask("cancels", "wait", [word("wait")])),
        )
        give_up_at = time.monotonic() + ANSWER_SECONDS
        while not started.exists() and time.monotonic() < give_up_at:
            time.sleep(POLL_SECONDS)  # for another process
        call.cancel()
        client = arrived.get(timeout=ANSWER_SECONDS)
        seen = self._attempt(lambda: self._infer(Ask("cancels", "seen", [word("seen")])))
        return {"client": client, "model": seen}

    def _metrics(self) -> object:
        with urllib.request.urlopen(
            f"http://{self._addresses.metrics}/metrics", timeout=10
        ) as page:
            lines = page.read().decode().splitlines()
        return sorted(line for line in lines if "probe_" in line)


def _arguments(client: Any, ask: Ask) -> dict[str, Any]:
    given = []
    for each in ask.inputs:
        tensor = client.InferInput(each.name, list(each.array.shape), each.datatype)
        tensor.set_data_from_numpy(each.array)
        given.append(tensor)
    outputs = [client.InferRequestedOutput(name) for name in ask.outputs] or None
    return {"model_name": ask.model, "inputs": given, "outputs": outputs, **ask.options}


def _refusal(error: InferenceServerException) -> object:
    message = error.message() or ""
    if "StatusCode.DEADLINE_EXCEEDED" in str(error.status()) or "Deadline Exceeded" in message:
        return {"no answer": "within the deadline"}
    return {"error": message, "status": str(error.status())}


def _is_silence(said: object) -> bool:
    return isinstance(said, dict) and "no answer" in said


def _was_taken(said: object) -> bool:
    """Whether it is an answer in which nothing failed."""
    text = json.dumps(said)
    return not any(failed in text for failed in ('"no answer"', '"error"', "raised "))


def _short(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}… {len(text)} characters"


def _values(array: Any) -> object:
    values = [
        one.decode("utf-8", "backslashreplace") if isinstance(one, bytes) else str(one)
        for one in array.ravel().tolist()
    ]
    if len(values) > SHOWN_VALUES:
        return [len(values), values[0], values[-1]]
    return [_unpacked(value) for value in values]


def _unpacked(value: str) -> object:
    """The models' own JSON as what it says."""
    try:
        return json.loads(value) if value[:1] in {"{", "["} else value
    except ValueError:
        return value


def _answer(response: Any, result: Any) -> object:
    outputs = [
        [one.name, one.datatype, list(one.shape), _values(result.as_numpy(one.name))]
        for one in response.outputs
    ]
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in sorted(response.parameters.items())
    }
    return {
        "model": [response.model_name, response.model_version, response.id],
        "outputs": outputs,
        "parameters": parameters,
    }


def _answer_http(response: Any, result: Any) -> object:
    outputs = [
        [one["name"], one["datatype"], one["shape"], _values(result.as_numpy(one["name"]))]
        for one in response.get("outputs", [])
    ]
    return {
        "model": [response.get("model_name"), response.get("model_version"), response.get("id")],
        "outputs": outputs,
        "parameters": response.get("parameters", {}),
    }
