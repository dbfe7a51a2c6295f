"""The OpenAPI 3.1 description of the REST port, as a JSON document.

Owns the prose and the schemas; `protocol.routes` decides what is served, and a test holds the two
together. Binary tensors are described in words, since OpenAPI has none for a JSON header that is
followed by bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.json_text import dumps

Json = Mapping[str, object]

_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = _MODEL + "/versions/{version}"

# Path → method → (operation id, category, summary, schema of the request, schema of the response).
# An empty schema is no body.
_Operation = tuple[str, str, str, str, str]

_FIXED: Final[dict[str, dict[str, _Operation]]] = {
    "/v2": {"get": ("serverMetadata", "metadata", "Name, version and extensions", "", "Server")},
    "/v2/health/live": {"get": ("serverLive", "health", "Whether the server runs", "", "")},
    "/v2/health/ready": {"get": ("serverReady", "health", "Whether every model can serve", "", "")},
    "/v2/models/stats": {
        "get": ("allStatistics", "statistics", "Counts of every ready model", "", "Statistics")
    },
    "/v2/trace/setting": {
        "get": ("traceSetting", "trace", "Trace settings", "", "TraceSetting"),
        "post": ("setTrace", "trace", "Change settings", "TraceUpdate", "TraceSetting"),
    },
    _MODEL + "/trace/setting": {
        "get": ("modelTraceSetting", "trace", "A model's settings", "", "TraceSetting"),
        "post": ("setModelTrace", "trace", "Change them", "TraceUpdate", "TraceSetting"),
    },
    "/v2/logging": {
        "get": ("logSettings", "logging", "Log settings", "", "LogSettings"),
        "post": ("setLog", "logging", "Change settings", "LogSettings", "LogSettings"),
    },
}

_PER_MODEL: Final[dict[str, tuple[str, _Operation]]] = {
    "": ("get", ("modelMetadata", "metadata", "Inputs and outputs", "", "Model")),
    "/ready": ("get", ("modelReady", "health", "Whether the model can serve", "", "")),
    "/config": ("get", ("modelConfig", "model-config", "Configuration", "", "Object")),
    "/stats": ("get", ("modelStatistics", "statistics", "Counts", "", "Statistics")),
    "/infer": ("post", ("infer", "inference", "One inference", "Infer", "InferResponse")),
    "/generate": ("post", ("generate", "inference", "Flat JSON", "Object", "Object")),
    "/generate_stream": (
        "post",
        ("generateStream", "inference", "Flat JSON, answered by events", "Object", "Events"),
    ),
}

_PER_REPOSITORY: Final[dict[str, _Operation]] = {
    "/index": ("index", "model-repository", "What there is", "IndexRequest", "Index"),
    "/models/{model}/load": ("load", "model-repository", "Load or reload", "LoadRequest", ""),
    "/models/{model}/unload": ("unload", "model-repository", "Unload", "UnloadRequest", ""),
}


def _object(required: str = "", **properties: Json) -> Json:
    schema: dict[str, object] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    return schema


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Final[Json] = {"type": "string"}
_FLAG: Final[Json] = {"type": "boolean"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_SHAPE: Final[Json] = _array({"type": "integer"})
_ANYTHING: Final[Json] = {"type": "object"}
_DATA: Final[Json] = {"type": "array", "description": "elements, row-major; nested or flat"}
_TENSOR_METADATA: Final[Json] = _array(_object(name=_TEXT, datatype=_TEXT, shape=_SHAPE))
_SETTING: Final[Json] = {"type": ["string", "null"], "description": "null falls back"}

_SCHEMAS: Final[dict[str, Json]] = {
    "Error": _object("error", error=_TEXT),
    "Object": _ANYTHING,
    "Server": _object(name=_TEXT, version=_TEXT, extensions=_array(_TEXT)),
    "Model": _object(
        name=_TEXT, versions=_array(_TEXT), platform=_TEXT, inputs=_TENSOR_METADATA,
        outputs=_TENSOR_METADATA,
    ),
    "Infer": _object(
        "inputs",
        id=_TEXT,
        parameters=_ANYTHING,
        inputs=_array(_object(
            "name datatype shape",
            name=_TEXT, datatype=_TEXT, shape=_array(_COUNT), parameters=_ANYTHING, data=_DATA,
        )),
        outputs=_array(_object("name", name=_TEXT, parameters=_ANYTHING)),
    ),
    "InferResponse": _object(
        id=_TEXT,
        model_name=_TEXT,
        model_version=_TEXT,
        parameters=_ANYTHING,
        outputs=_array(_object(
            name=_TEXT, datatype=_TEXT, shape=_SHAPE, parameters=_ANYTHING, data=_DATA,
        )),
    ),
    "Statistics": _object(model_stats=_array(_ANYTHING)),
    "TraceSetting": _object(
        trace_level=_array(_TEXT), trace_rate=_TEXT, trace_count=_TEXT, log_frequency=_TEXT,
        trace_file=_TEXT, trace_mode=_TEXT, url=_TEXT, resource=_TEXT, bsp_max_queue_size=_TEXT,
        bsp_schedule_delay=_TEXT, bsp_max_export_batch_size=_TEXT,
    ),
    "TraceUpdate": _object(
        trace_level={"type": ["array", "null"], "items": _TEXT}, trace_rate=_SETTING,
        trace_count=_SETTING, log_frequency=_SETTING,
    ),
    "LogSettings": _object(
        log_file=_TEXT, log_info=_FLAG, log_warning=_FLAG, log_error=_FLAG,
        log_verbose_level=_COUNT, log_format={"enum": ["default", "ISO8601"]},
    ),
    "IndexRequest": _object(ready=_FLAG),
    "Index": _array(_object("name", name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)),
    "LoadRequest": _object(parameters={"type": "object", "additionalProperties": _TEXT}),
    "UnloadRequest": _object(parameters=_object(unload_dependents=_FLAG)),
    "systemRegion": _object("key byte_size", key=_TEXT, offset=_COUNT, byte_size=_COUNT),
    "cudaRegion": _object(
        "raw_handle device_id byte_size",
        raw_handle=_object("b64", b64=_TEXT), device_id=_COUNT, byte_size=_COUNT,
    ),
    "Regions": _array(_ANYTHING),
}  # fmt: skip

_INFER_BODY: Final = (
    "JSON, or JSON followed by the bytes of its binary tensors in the order of `inputs`; then "
    "`Inference-Header-Content-Length` says how many bytes are JSON, and 0 of them make the whole "
    "body the model's one input."
)


def paths() -> dict[str, dict[str, _Operation]]:
    """Every path template with its methods, in lower case."""
    table = {path: dict(operations) for path, operations in _FIXED.items()}
    for suffix, (method, operation) in _PER_MODEL.items():
        table[_MODEL + suffix] = {method: operation}
        identifier, *rest = operation
        table[_VERSION + suffix] = {method: (f"{identifier}Version", *rest)}  # type: ignore[dict-item]  # five strings again
    for suffix, operation in _PER_REPOSITORY.items():
        identifier, *rest = operation
        table["/v2/repository" + suffix] = {"post": operation}
        named = (f"{identifier}InRepository", *rest)
        table["/v2/repository/{repository}" + suffix] = {"post": named}  # type: ignore[dict-item]  # as above
    for kind in ("system", "cuda"):
        for prefix, place in (("", ""), ("/region/{region}", "Region")):
            base = f"/v2/{kind}sharedmemory{prefix}"
            for verb, method, asked, told in (
                ("status", "get", "", "Regions"),
                ("register", "post", f"{kind}Region", ""),
                ("unregister", "post", "", ""),
            ):
                summary = f"{verb.capitalize()}: {kind} shared memory"
                entry = (f"{kind}{verb.capitalize()}{place}", "shared-memory", summary, asked, told)
                table[f"{base}/{verb}"] = {method: entry}
    return table


def document(*, server_version: str) -> dict[str, object]:
    """The description as a JSON object."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Troupe",
            "version": server_version,
            "description": "The KServe v2 protocol over HTTP, with Triton's extensions.",
        },
        "paths": {
            path: {
                "parameters": [_parameter(name) for name in _names(path)],
                **{method: _operation(entry) for method, entry in operations.items()},
            }
            for path, operations in sorted(paths().items())
        },
        "components": {"schemas": _SCHEMAS},
    }


def document_text(*, server_version: str) -> str:
    """The description as compact JSON text."""
    return dumps(document(server_version=server_version))


def _names(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _parameter(name: str) -> Json:
    schema: dict[str, str] = {"type": "string"}
    if name == "version":
        schema["pattern"] = "^[0-9]+$"
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _operation(entry: _Operation) -> Json:
    identifier, category, summary, asked, told = entry
    operation: dict[str, object] = {
        "operationId": identifier,
        "tags": [category],
        "summary": summary,
        "responses": {
            "200": {"description": "As asked", **_content(told)},
            "default": {"description": "What went wrong", **_content("Error")},
        },
    }
    if asked:
        body: dict[str, object] = {"required": asked == "Infer", **_content(asked)}
        if asked == "Infer":
            body["description"] = _INFER_BODY
        operation["requestBody"] = body
    return operation


def _content(schema: str) -> dict[str, object]:
    if not schema:
        return {}
    if schema == "Events":
        return {"content": {"text/event-stream": {"schema": _TEXT}}}
    content: dict[str, object] = {"application/json": {"schema": _ref(schema)}}
    if schema in ("Infer", "InferResponse"):
        content["application/octet-stream"] = {}
    return {"content": content}
