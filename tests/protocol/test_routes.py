"""Every route, and who is refused on it."""

from __future__ import annotations

import pytest

from protocol import routes
from protocol.api_keys import Guard
from protocol.http1_error import HttpError
from protocol.restriction import Category, RestrictedApis
from protocol.routes import (
    Generate,
    Infer,
    LogSettings,
    ModelConfig,
    ModelLoad,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    ModelUnload,
    Operation,
    RepositoryIndex,
    ServerLive,
    ServerMetadata,
    ServerReady,
    SharedMemoryRegister,
    SharedMemoryStatus,
    SharedMemoryUnregister,
    TraceSetting,
    dispatch,
    resolve,
)

OPEN = Guard(RestrictedApis({}))

TABLE: list[tuple[str, str, Category, Operation]] = [
    ("GET", "/v2", Category.METADATA, ServerMetadata()),
    ("GET", "/v2/health/live", Category.HEALTH, ServerLive()),
    ("GET", "/v2/health/ready", Category.HEALTH, ServerReady()),
    ("GET", "/v2/models/m", Category.METADATA, ModelMetadata("m")),
    ("GET", "/v2/models/m/versions/3", Category.METADATA, ModelMetadata("m", "3")),
    ("GET", "/v2/models/m/ready", Category.HEALTH, ModelReady("m")),
    ("GET", "/v2/models/m/versions/3/ready", Category.HEALTH, ModelReady("m", "3")),
    ("GET", "/v2/models/m/config", Category.MODEL_CONFIG, ModelConfig("m")),
    ("GET", "/v2/models/m/versions/3/config", Category.MODEL_CONFIG, ModelConfig("m", "3")),
    ("GET", "/v2/models/m/stats", Category.STATISTICS, ModelStatistics("m")),
    ("GET", "/v2/models/m/versions/3/stats", Category.STATISTICS, ModelStatistics("m", "3")),
    ("GET", "/v2/models/stats", Category.STATISTICS, ModelStatistics()),
    ("POST", "/v2/models/m/infer", Category.INFERENCE, Infer("m")),
    ("POST", "/v2/models/m/versions/3/infer", Category.INFERENCE, Infer("m", "3")),
    ("POST", "/v2/models/stats/infer", Category.INFERENCE, Infer("stats")),
    ("POST", "/v2/models/m/generate", Category.INFERENCE, Generate("m")),
    ("POST", "/v2/models/m/versions/3/generate", Category.INFERENCE, Generate("m", "3")),
    (
        "POST",
        "/v2/models/m/generate_stream",
        Category.INFERENCE,
        Generate("m", streaming=True),
    ),
    ("GET", "/v2/models/m/trace/setting", Category.TRACE, TraceSetting("m")),
    ("POST", "/v2/models/m/trace/setting", Category.TRACE, TraceSetting("m", update=True)),
    ("GET", "/v2/trace/setting", Category.TRACE, TraceSetting()),
    ("POST", "/v2/trace/setting", Category.TRACE, TraceSetting(update=True)),
    ("GET", "/v2/logging", Category.LOGGING, LogSettings()),
    ("POST", "/v2/logging", Category.LOGGING, LogSettings(update=True)),
    ("POST", "/v2/repository/index", Category.MODEL_REPOSITORY, RepositoryIndex()),
    ("POST", "/v2/repository/r%2Fs/index", Category.MODEL_REPOSITORY, RepositoryIndex("r/s")),
    ("POST", "/v2/repository/models/m/load", Category.MODEL_REPOSITORY, ModelLoad("m")),
    ("POST", "/v2/repository/models/m/unload", Category.MODEL_REPOSITORY, ModelUnload("m")),
    ("POST", "/v2/repository/r/models/m/load", Category.MODEL_REPOSITORY, ModelLoad("m", "r")),
    (
        "POST",
        "/v2/repository/models/models/m/unload",
        Category.MODEL_REPOSITORY,
        ModelUnload("m", "models"),
    ),
    *[
        (method, f"/v2/{kind}sharedmemory{region}/{verb}", Category.SHARED_MEMORY, operation)
        for kind in ("system", "cuda")
        for region, name in (("", ""), ("/region/a%20b", "a b"))
        for method, verb, operation in (
            ("GET", "status", SharedMemoryStatus(kind, name)),
            ("POST", "register", SharedMemoryRegister(kind, name)),
            ("POST", "unregister", SharedMemoryUnregister(kind, name)),
        )
    ],
]

ALIASES = [
    "/v2/",
    "//v2",
    "/V2",
    "/v2/nope",
    "/v2/health",
    "/v2/health/live/",
    "/v2//health/live",
    "/v2/health/%6cive",
    "/v2/models",
    "/v2/models/",
    "/v2/models/m/",
    "/v2/models//infer",
    "/v2/models/m//infer",
    "/v2//models/m/infer",
    "/v2/models/m/infer/",
    "/v2/models/m/infer;x",
    "/v2/models/m/Infer",
    "/v2/models/m/%69nfer",
    "/v2/models/m/versions",
    "/v2/models/m/versions/",
    "/v2/models/m/versions/v1",
    "/v2/models/m/versions/-1",
    "/v2/models/m/versions/1%32",
    "/v2/models/m/versions/\u0661",
    "/v2/models/m/versions/1/trace/setting",
    "/v2/models/m/versions/1/versions/1",
    "/v2/models/m/nope",
    "/v2/repository",
    "/v2/repository//index",
    "/v2/repository/a/b/index",
    "/v2/repository/models/m",
    "/v2/repository/models/m/reload",
    "/v2/repository/r/models/m/nope",
    "/v2/repository/r/nope/m/load",
    "/v2/systemsharedmemory",
    "/v2/systemsharedmemory/region/status",
    "/v2/systemsharedmemory/region//status",
    "/v2/systemsharedmemory/region/r/nope",
    "/v2/cudasharedmemory/r/status",
    "/v2/tracing",
    "/metrics",
    "/",
    "",
    "*",
    "v2",
]


@pytest.mark.parametrize(("method", "path", "category", "operation"), TABLE)
def test_every_route(method: str, path: str, category: Category, operation: Operation) -> None:
    route = resolve(path)
    assert route is not None
    assert route.category is category
    assert dispatch(method, path, {}, OPEN) == operation


@pytest.mark.parametrize("path", ALIASES)
def test_nothing_but_the_exact_form_is_a_route(path: str) -> None:
    assert resolve(path) is None
    with pytest.raises(HttpError, match="Not Found") as caught:
        dispatch("GET", path, {}, OPEN)
    assert caught.value.status == 404


@pytest.mark.parametrize("path", sorted({path for _, path, _, _ in TABLE}))
def test_every_other_method_is_refused(path: str) -> None:
    allowed = {method for method, other, _, _ in TABLE if other == path}
    for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"} - allowed:
        with pytest.raises(HttpError, match="Method Not Allowed") as caught:
            dispatch(method, path, {}, OPEN)
        assert caught.value.status == 405
        assert caught.value.headers == (("Allow", ", ".join(sorted(allowed))),)


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("a%2Fb", "a/b"),
        ("%2e%2e", ".."),
        ("..%2fx", "../x"),
        ("%252e", "%2e"),  # decoded once
        ("%zz", "%zz"),
        ("%C3%A9", "é"),
        ("%ff", "\ufffd"),
        ("a%00b", "a\0b"),
        ("a;b=c", "a;b=c"),
        ("stats", "stats"),
    ],
)
def test_names_are_decoded_once_and_after_splitting(segment: str, name: str) -> None:
    assert dispatch("POST", f"/v2/models/{segment}/infer", {}, OPEN) == Infer(name)
    assert dispatch("POST", f"/v2/repository/models/{segment}/load", {}, OPEN) == ModelLoad(name)


def test_a_long_path_is_resolved_but_not_remembered() -> None:
    routes._resolve_remembered.cache_clear()
    name = "m" * 5000
    assert dispatch("GET", f"/v2/models/{name}", {}, OPEN) == ModelMetadata(name)
    assert routes._resolve_remembered.cache_info().currsize == 0
    for index in range(1100):
        dispatch("GET", f"/v2/models/{index}", {}, OPEN)
    assert routes._resolve_remembered.cache_info().currsize == 1024


@pytest.mark.parametrize(("method", "path", "category", "operation"), TABLE)
@pytest.mark.parametrize("restricted", list(Category))
def test_a_restricted_category_needs_its_header_on_every_route(
    method: str, path: str, category: Category, operation: Operation, restricted: Category
) -> None:
    apis = Guard(RestrictedApis.parse([f"{restricted.value}:Secret=w=1"]))
    assert dispatch(method, path, {"secret": "w=1"}, apis) == operation
    for headers in ({}, {"secret": "W=1"}, {"secret": ""}, {"secret": "w=1, w=1"}):
        if category is restricted:
            for any_method in (method, "PATCH"):  # 403 comes before 405
                with pytest.raises(HttpError) as caught:
                    dispatch(any_method, path, headers, apis)
                assert caught.value.status == 403
                assert caught.value.message == ("This API is restricted, expecting header 'Secret'")
        else:
            assert dispatch(method, path, headers, apis) == operation


@pytest.mark.parametrize("path", ALIASES)
def test_no_alias_reaches_a_restricted_route(path: str) -> None:
    apis = Guard(RestrictedApis.parse([",".join(each.value for each in Category) + ":k=v"]))
    with pytest.raises(HttpError) as caught:
        dispatch("POST", path, {}, apis)
    assert caught.value.status == 404


def test_grpc_names_metadata_with_a_prefix() -> None:
    apis = RestrictedApis.parse(["model-repository,logging:k=v", "health:h=w"], grpc=True)
    text = "This protocol is restricted, expecting header 'triton-grpc-protocol-k'"
    assert apis.refusal(Category.LOGGING, {}) == text
    assert apis.refusal(Category.MODEL_REPOSITORY, {"k": "v"}) == text
    assert apis.refusal(Category.LOGGING, {"triton-grpc-protocol-k": "v"}) is None
    assert apis.refusal(Category.HEALTH, {"triton-grpc-protocol-k": "v"}) is not None
    assert apis.refusal(Category.INFERENCE, {}) is None


def test_a_secret_need_not_be_ascii() -> None:
    apis = RestrictedApis.parse(["health:k=é"])
    assert apis.refusal(Category.HEALTH, {"k": "é".encode().decode("latin-1")}) is None
    assert apis.refusal(Category.HEALTH, {"k": "é"}) is not None
    assert apis.refusal(Category.HEALTH, {"k": "\u20ac"}) is not None


@pytest.mark.parametrize(
    ("flags", "grpc", "text"),
    [
        (["nope:k=v"], False, "unknown restricted api 'nope' "),
        (["nope:k=v"], True, "unknown restricted protocol 'nope' "),
        (["health,:k=v"], False, "unknown restricted api '' "),
        (
            ["health:k=v", "trace,health:k=v"],
            False,
            "restricted api 'health' can not be specified in multiple config groups",
        ),
        (
            ["health,health:k=v"],
            True,
            "restricted protocol 'health' can not be specified in multiple config groups",
        ),
        (
            ["health"],
            False,
            "malformed --http-restricted-api option format is <apis>:<key>=<value>. Got health",
        ),
        (
            ["health:k"],
            True,
            (
                "malformed --grpc-restricted-protocol option format is <protocols>:<key>=<value>. "
                "Got health:k"
            ),
        ),
    ],
)
def test_a_malformed_restriction_is_told(flags: list[str], grpc: bool, text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the text is compared below
        RestrictedApis.parse(flags, grpc=grpc)
    assert str(caught.value) == text
