"""From arguments to `ServerOptions`, in the manner of Triton's own command line.

Long options only, `--x=v` or `--x v`; unambiguous prefixes are accepted. Owns the checks that need
more than one flag.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Final

from actors.flags import FLAGS, BadOption, Flag
from actors.metrics_settings import MetricsSettings
from actors.options import ServerOptions, Value
from protocol.restriction import RestrictedApis
from protocol.v2_json_parameters import HeaderForwarding
from repo.host_policy import HostPolicies

_BY_NAME: Final = {flag.name: flag for flag in FLAGS}
_DEFAULTS: Final = {option.name: option.default for option in fields(ServerOptions)}


def usage() -> str:
    """The text of --help."""
    rows = [
        f"  --{flag.name}{' <value>' if flag.takes_value else ''}\n        {flag.help}"
        for flag in FLAGS
    ]
    return "\n".join(["Usage: troupe serve [options]", *rows])


def parse(arguments: Sequence[str], warn: Callable[[str], None] = lambda _: None) -> ServerOptions:
    """The options that `arguments` ask for.

    Long options only, `--x=v` or `--x v`, unambiguous prefixes accepted. Raises BadOption.
    """
    values: dict[str, Value] = {}
    given: set[str] = set()
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise BadOption(f"Unexpected argument: {argument}")
        name, equals, text = argument[2:].partition("=")
        flag = _resolve(name)
        given.add(flag.name)
        if not flag.takes_value:
            values[flag.option] = True
            continue
        if not equals:
            if not rest:
                raise BadOption(f'Bad option: "--{flag.name}".\nmissing value')
            text = rest.pop(0)
        if flag.deprecated:
            warn(f"Warning: '--{flag.name}' has been deprecated")
        value = _parse_value(flag, text)
        if flag.repeated:
            earlier = values.get(flag.option, ())
            assert isinstance(earlier, tuple), "a repeated flag only ever collects"
            value = (*earlier, str(value))
        values[flag.option] = value
    if {"cache-config", "response-cache-byte-size"} <= given:
        raise BadOption(
            "Error: Incompatible flags --response-cache-byte-size and --cache-config both "
            "provided. Please provide one or the other."
        )
    options = ServerOptions(**values)  # type: ignore[arg-type]  # the table matches the fields
    _cross_check(options)
    return options


def _resolve(name: str) -> Flag:
    flag = _BY_NAME.get(name)
    if flag is not None:
        return flag
    candidates = [flag for flag in FLAGS if name and flag.name.startswith(name)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(f"--{flag.name}" for flag in candidates)
        raise BadOption(f'Bad option: "--{name}".\nambiguous, it may be {names}')
    raise BadOption(f'Bad option: "--{name}".\nunrecognized option')


def _parse_value(flag: Flag, text: str) -> Value:
    try:
        value = flag.parse(text)
    except ValueError as error:
        raise BadOption(f'Bad option: "--{flag.name}".\n{error}') from None
    if flag.missing and value != _DEFAULTS.get(flag.option):
        raise BadOption(f'Bad option: "--{flag.name}".\n{flag.missing}')
    return value


def _cross_check(options: ServerOptions) -> None:
    if not options.model_repository:
        raise BadOption(
            "error: creating server: Invalid argument - --model-repository must be specified"
        )
    try:
        if options.cache_bytes is not None and options.cache_bytes <= 0:
            raise ValueError("the response cache needs a size, in bytes")
        RestrictedApis.parse(options.http_restricted_api)
        RestrictedApis.parse(options.grpc_restricted_protocol, grpc=True)
        HostPolicies(options.host_policy)
        MetricsSettings.parse(options.metrics_config)
        HeaderForwarding(options.http_header_forward_pattern)
        HeaderForwarding(options.grpc_header_forward_pattern)
    except ValueError as error:
        raise BadOption(f"Error: {error}") from None
    if options.load_model and options.model_control_mode != "explicit":
        raise BadOption(
            "Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well."
        )
    listeners = [
        ("HTTP", options.allow_http, options.http_address, options.http_port),
        ("GRPC", options.allow_grpc, options.grpc_address, options.grpc_port),
        (
            "metrics",
            options.allow_metrics,
            options.effective_metrics_address,
            options.metrics_port,
        ),
    ]
    seen: dict[tuple[str, int], str] = {}
    for name, allowed, address, port in listeners:
        if not allowed or port == 0:  # port 0 asks the system for a free one
            continue
        other = seen.get((address, port))
        if other is not None:
            raise BadOption(
                f"The server cannot listen to {other} requests and {name} requests at the same "
                f"address and port {address}:{port}"
            )
        seen[address, port] = name
