"""What a run needs before its first request: the model, its data, a way to send.

Owns the questions that are asked of the server first, in the original's order, and which input
data and client the options mean. Every failure is a SetupError.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perf_analyzer.clients import Client, HttpClient
from perf_analyzer.connecting import Connect, connector, split_address, tls_context
from perf_analyzer.control import Control, ControlError, GrpcControl, HttpControl
from perf_analyzer.grpc_clients import GrpcClient, GrpcStreamClient, grpc_fields
from perf_analyzer.input_files import read_directory, read_json
from perf_analyzer.inputs import DataSet, generate
from perf_analyzer.model import (
    Document,
    ModelInfo,
    SetupError,
    check_usage,
    composed,
    ensemble_steps,
    read_model,
)
from perf_analyzer.options import Mode, Options
from perf_analyzer.requests import Encoder, GrpcEncoder, HttpEncoder, RequestPlan
from perf_analyzer.wires import Wires

HTTP_PORT: Final = 8000
GRPC_PORT: Final = 8001
# Ensembles may contain ensembles; one that contains itself must not be followed for ever.
MAX_ENSEMBLE_DEPTH: Final = 16
GENERATED: Final = {(): False, ("random",): False, ("zero",): True}


@dataclass(frozen=True)
class Target:
    """The server: how to reach it, and how it is called in requests."""

    connect: Connect
    authority: str
    tls: bool


def target(options: Options) -> Target:
    """The server that the options name."""
    port = GRPC_PORT if options.grpc else HTTP_PORT
    tls = options.grpc_tls if options.grpc else None
    if not options.grpc and options.address.startswith("https://"):
        tls = options.http_tls
    context = tls_context(tls, "h2" if options.grpc else "http/1.1") if tls is not None else None
    host, number = split_address(options.address, port)
    return Target(
        connect=connector(options.address, port, context),
        authority=f"{host}:{number}",
        tls=tls is not None,
    )


def control_of(options: Options, server: Target, wires: Wires) -> Control:
    """The questions over the protocol that the load uses too."""
    if options.grpc:
        return GrpcControl(wires, server.connect, server.authority, options.headers, tls=server.tls)
    return HttpControl(wires, server.connect, server.authority, options.headers)


async def find_model(options: Options, control: Control) -> ModelInfo:
    """The model under load, and what it is composed of."""
    name, version = options.model, options.version
    try:
        metadata = await control.model_metadata(name, version)
    except ControlError as error:
        raise SetupError(f"failed to get model metadata: {error}") from None
    config = await _config(control, name, version)
    model = read_model(metadata, config, version=version, shapes=options.shapes)
    composing = list(options.bls_composing)
    configs: list[Document] = []
    if config is not None:
        await _follow(control, config, composing, configs, depth=0)
    for each, of_version in options.bls_composing:
        found = await _config(control, each, of_version)
        if found is None:
            continue
        configs.append(found)
        await _follow(control, found, composing, configs, depth=0)
    model = composed(model, composing, configs)
    check_usage(model, batch_size=options.batch_size, streaming=options.streaming)
    return model


async def _config(control: Control, name: str, version: str) -> Document | None:
    """None from a server that has no such question: it is a plain KServe v2 server."""
    try:
        return await control.model_config(name, version)
    except ControlError as error:
        if error.unsupported:
            return None
        raise SetupError(f"failed to get model config: {error}") from None


async def _follow(
    control: Control,
    config: Document,
    composing: list[tuple[str, str]],
    configs: list[Document],
    *,
    depth: int,
) -> None:
    """Add the steps of an ensemble, and of the ensembles among them."""
    if depth > MAX_ENSEMBLE_DEPTH:
        raise SetupError(f"ensembles are nested more than {MAX_ENSEMBLE_DEPTH} deep")
    for name, version in ensemble_steps(config):
        step = await _config(control, name, version)
        if step is None:
            continue
        configs.append(step)
        if "ensemble_scheduling" not in step:
            composing.append((name, version))
        await _follow(control, step, composing, configs, depth=depth + 1)


async def has_statistics(control: Control) -> bool:
    """Whether the server counts what it does."""
    try:
        metadata = await control.server_metadata()
    except ControlError as error:
        if error.unsupported:
            return False
        raise SetupError(f"failed to get server metadata: {error}") from None
    return "statistics" in metadata.get("extensions", ())


def load_data(options: Options, model: ModelInfo) -> DataSet:
    """The data that requests carry."""
    given = options.input_data
    if given in GENERATED:
        return generate(
            model,
            zero=GENERATED[given],
            string_length=options.string_length,
            string_data=options.string_data,
            seed=options.seed,
        )
    paths = [Path(each) for each in given]
    if len(paths) == 1 and paths[0].is_dir():
        return read_directory(paths[0], model, options.shapes)
    for path in paths:
        if not path.is_file():
            raise SetupError(
                f"Failed to init manager inputs: unsupported input data provided {path}"
            )
    return read_json(
        paths, model, options.shapes, fixed_schedule=options.mode is Mode.FIXED_SCHEDULE
    )


def client_of(
    options: Options, server: Target, plan: RequestPlan, wires: Wires
) -> tuple[Client, Encoder]:
    """The client of the protocol that was asked for, and what encodes its payloads."""
    if not options.grpc:
        encoder = HttpEncoder(plan, authority=server.authority, headers=options.headers)
        return HttpClient(wires, server.connect, encoder), encoder
    method = "ModelStreamInfer" if options.streaming else "ModelInfer"
    fields = grpc_fields(
        method,
        server.authority,
        options.headers,
        tls=server.tls,
        encoding=options.grpc_compression,
    )
    grpc = GrpcEncoder(plan)
    if options.streaming:
        limit = options.worker_limit
        stream = GrpcStreamClient(wires, server.connect, grpc, fields, max_streams=limit)
        return stream, grpc
    return GrpcClient(wires, server.connect, grpc, fields), grpc
