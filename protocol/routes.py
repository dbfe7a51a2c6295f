"""Which operation a method and a raw path ask for, and who may ask.

Owns the table of REST routes, the restriction categories, and the order in which a request is
refused: unknown path (404), guarded (403, 401), wrong method (405). Pure: it never answers anything
itself. The path is split at `/` first; only then are names percent-decoded, each once, so that an
encoded slash or dot never becomes structure.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from protocol.api_keys import Guard, Reason
from protocol.http1_error import Headers, HttpError
from protocol.restriction import Category

# Longer paths are resolved each time: this bounds what the memory of resolved paths can hold.
REMEMBERED_PATH_CHARACTERS: Final = 256
REMEMBERED_PATHS: Final = 1024

ASK_FOR_KEY: Final[Headers] = (("WWW-Authenticate", "Bearer"),)


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """What this server is and can do."""


@dataclass(frozen=True, slots=True)
class ServerLive:
    """Whether the server runs."""


@dataclass(frozen=True, slots=True)
class ServerReady:
    """Whether every model is ready."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model's inputs and outputs. An empty `version` is the latest, here and below."""

    model: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class ModelReady:
    """Whether one model is ready."""

    model: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's configuration."""

    model: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Counts and durations; an empty `model` asks for every ready one."""

    model: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Infer:
    """One inference."""

    model: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Generate:
    """One inference in the generate extension's flat JSON; `streaming` answers with events."""

    model: str
    version: str = ""
    streaming: bool = False


@dataclass(frozen=True, slots=True)
class TraceSetting:
    """Read or, with `update`, change trace settings: of one model, or of all if it is empty."""

    model: str = ""
    update: bool = False


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Read or, with `update`, change log settings."""

    update: bool = False


@dataclass(frozen=True, slots=True)
class RepositoryIndex:
    """What the repositories hold; the repository named is accepted and ignored."""

    repository: str = ""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """Load a model; naming a repository is refused by the one who loads."""

    model: str
    repository: str = ""


@dataclass(frozen=True, slots=True)
class ModelUnload:
    """Unload a model."""

    model: str
    repository: str = ""


@dataclass(frozen=True, slots=True)
class SharedMemoryStatus:
    """The registered regions of `kind` ("system" or "cuda"); an empty `region` is all of them."""

    kind: str
    region: str = ""


@dataclass(frozen=True, slots=True)
class SharedMemoryRegister:
    """Register a region."""

    kind: str
    region: str = ""


@dataclass(frozen=True, slots=True)
class SharedMemoryUnregister:
    """Unregister a region, or all of `kind`."""

    kind: str
    region: str = ""


Operation = (
    ServerMetadata
    | ServerLive
    | ServerReady
    | ModelMetadata
    | ModelReady
    | ModelConfig
    | ModelStatistics
    | Infer
    | Generate
    | TraceSetting
    | LogSettings
    | RepositoryIndex
    | ModelLoad
    | ModelUnload
    | SharedMemoryStatus
    | SharedMemoryRegister
    | SharedMemoryUnregister
)


@dataclass(frozen=True, slots=True)
class Route:
    """A path that exists: its restriction category and what each method does."""

    category: Category
    operations: Mapping[str, Operation]

    @property
    def allowed_methods(self) -> tuple[str, ...]:
        return tuple(self.operations)


def resolve(raw_path: str) -> Route | None:
    """The route of a raw path (no query, not decoded), or None where there is none."""
    if len(raw_path) > REMEMBERED_PATH_CHARACTERS:
        return _resolve(raw_path)
    return _resolve_remembered(raw_path)


def dispatch(method: str, raw_path: str, headers: Mapping[str, str], guard: Guard) -> Operation:
    """The operation asked for. Raises HttpError: 404, 403 or 401, 405, in this order of precedence.

    `headers` has lower-case names.
    """
    route = resolve(raw_path)
    if route is None:
        raise HttpError(404, "Not Found")
    refused = guard.refusal(route.category, headers)
    if refused is not None:
        if refused.reason is Reason.NO_KEY:
            raise HttpError(401, refused.message, ASK_FOR_KEY)
        raise HttpError(403, refused.message)
    operation = route.operations.get(method)
    if operation is None:
        allowed = ", ".join(route.allowed_methods)
        raise HttpError(405, "Method Not Allowed", (("Allow", allowed),))
    return operation


def _get(category: Category, operation: Operation) -> Route:
    return Route(category, {"GET": operation})


def _post(category: Category, operation: Operation) -> Route:
    return Route(category, {"POST": operation})


_FIXED: Final[dict[str, Route]] = {
    "/v2": _get(Category.METADATA, ServerMetadata()),
    "/v2/health/live": _get(Category.HEALTH, ServerLive()),
    "/v2/health/ready": _get(Category.HEALTH, ServerReady()),
    "/v2/models/stats": _get(Category.STATISTICS, ModelStatistics()),
    "/v2/trace/setting": Route(
        Category.TRACE, {"GET": TraceSetting(), "POST": TraceSetting(update=True)}
    ),
    "/v2/logging": Route(
        Category.LOGGING, {"GET": LogSettings(), "POST": LogSettings(update=True)}
    ),
    "/v2/repository/index": _post(Category.MODEL_REPOSITORY, RepositoryIndex()),
}


def _resolve(raw_path: str) -> Route | None:
    fixed = _FIXED.get(raw_path)
    if fixed is not None:
        return fixed
    match raw_path.split("/"):
        case ["", "v2", _, *rest] if "" in rest:
            return None  # neither a doubled nor a trailing slash matches anything
        case ["", "v2", "models", model, *rest]:
            return _model_route(unquote(model, errors="replace"), rest) if model else None
        case ["", "v2", "repository", *rest]:
            return _repository_route(rest)
        case ["", "v2", "systemsharedmemory", *rest]:
            return _shared_memory_route("system", rest)
        case ["", "v2", "cudasharedmemory", *rest]:
            return _shared_memory_route("cuda", rest)
    return None


_resolve_remembered = functools.lru_cache(maxsize=REMEMBERED_PATHS)(_resolve)


def _model_route(model: str, rest: list[str]) -> Route | None:
    version = ""
    match rest:
        case ["trace", "setting"]:
            operations = {"GET": TraceSetting(model), "POST": TraceSetting(model, update=True)}
            return Route(Category.TRACE, operations)
        case ["versions", number, *rest]:
            if not (number.isascii() and number.isdigit()):
                return None
            version = number
    match rest:
        case []:
            return _get(Category.METADATA, ModelMetadata(model, version))
        case ["ready"]:
            return _get(Category.HEALTH, ModelReady(model, version))
        case ["config"]:
            return _get(Category.MODEL_CONFIG, ModelConfig(model, version))
        case ["stats"]:
            return _get(Category.STATISTICS, ModelStatistics(model, version))
        case ["infer"]:
            return _post(Category.INFERENCE, Infer(model, version))
        case ["generate"]:
            return _post(Category.INFERENCE, Generate(model, version))
        case ["generate_stream"]:
            return _post(Category.INFERENCE, Generate(model, version, streaming=True))
    return None


def _repository_route(rest: list[str]) -> Route | None:
    repository = ""
    match rest:
        case [name, "index"]:
            return _post(
                Category.MODEL_REPOSITORY, RepositoryIndex(unquote(name, errors="replace"))
            )
        case [name, "models", _, _]:
            repository = unquote(name, errors="replace")
            rest = rest[1:]
    match rest:
        case ["models", model, "load"]:
            name = unquote(model, errors="replace")
            return _post(Category.MODEL_REPOSITORY, ModelLoad(name, repository))
        case ["models", model, "unload"]:
            name = unquote(model, errors="replace")
            return _post(Category.MODEL_REPOSITORY, ModelUnload(name, repository))
    return None


def _shared_memory_route(kind: str, rest: list[str]) -> Route | None:
    region = ""
    match rest:
        case ["region", name, _]:
            region = unquote(name, errors="replace")
            rest = rest[2:]
    match rest:
        case ["status"]:
            return _get(Category.SHARED_MEMORY, SharedMemoryStatus(kind, region))
        case ["register"]:
            return _post(Category.SHARED_MEMORY, SharedMemoryRegister(kind, region))
        case ["unregister"]:
            return _post(Category.SHARED_MEMORY, SharedMemoryUnregister(kind, region))
    return None
