"""From what the operator wrote to `ServerOptions`, in the manner of Triton's own command line.

The command line prevails over the environment, and that over the configuration file. Owns this
order, the text of --help, and the checks that need more than one option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Final

from actors.settings.flag_values import BadOption
from actors.settings.flags import FLAGS, Flag
from actors.settings.metrics_settings import MetricsSettings
from actors.settings.option_sources import (
    ENVIRONMENT_PREFIX,
    Setting,
    from_arguments,
    from_environment,
    from_file,
    unknown_variables,
)
from actors.settings.options import NO_PORT, ServerOptions, Value
from actors.settings.trace_options import parse_trace_config
from protocol.restriction import RestrictedApis
from protocol.v2_json_parameters import HeaderForwarding
from repo.host_policy import HostPolicies

_DEFAULTS: Final = {option.name: option.default for option in fields(ServerOptions)}


class HelpAsked(Exception):  # what the operator wanted instead of a server
    """--help was among the arguments."""


def usage() -> str:
    """The text of --help."""
    return "\n".join(
        [
            "Usage: troupe serve [options]",
            "",
            "Every option but --help may also stand in the file that --config names, as",
            f"`http-port = 8000`, and in the environment, as {ENVIRONMENT_PREFIX}HTTP_PORT=8000.",
            "The command line prevails over the environment, and that over the file.",
            "",
            *map(_usage_row, FLAGS),
        ]
    )


def _usage_row(flag: Flag) -> str:
    value = " <value>" if flag.takes_value else ""
    notes = [flag.help]
    default = _DEFAULTS.get(flag.option, "")
    if flag.takes_value and not flag.deprecated and default not in ("", (), NO_PORT):
        shown = str(default).lower() if isinstance(default, bool) else default
        notes.append(f"default {shown}")
    if flag.repeated and not flag.deprecated:
        notes.append("may be given several times")
    if flag.inert:
        notes.append(f"accepted for compatibility, without effect: {flag.inert}")
    if flag.missing:
        notes.append(f"refused: {flag.missing}")
    if flag.deprecated:
        notes.append(f"deprecated, use --{flag.instead}")
    return f"  --{flag.name}{value}\n        {'; '.join(notes)}"


def parse(
    arguments: Sequence[str],
    warn: Callable[[str], None] = lambda _: None,
    *,
    environment: Mapping[str, str] | None = None,
) -> ServerOptions:
    """The options that arguments and environment ask for, and the file that they name.

    Raises BadOption or HelpAsked.
    """
    given = from_arguments(arguments)
    if any(setting.flag.name == "help" for setting in given):
        raise HelpAsked
    inherited = from_environment(environment or {})
    unknown = unknown_variables(environment or {})
    if unknown:
        warn(f"Warning: variables of the environment that name no option: {', '.join(unknown)}")
    file = [each.text for each in (*inherited, *given) if each.flag.name == "config"]
    sources = [from_file(file[-1]) if file else [], inherited, given]
    values: dict[str, Value] = {}
    places: dict[str, str] = {}
    for source in sources:
        settings = [setting for setting in source if setting.flag.name != "config"]
        values |= _values(settings, warn)
        places |= {
            setting.flag.option: "" if source is given else setting.place for setting in settings
        }
    options = ServerOptions(**values)  # type: ignore[arg-type]  # the table matches the fields
    _check_each(options, places, environment or {})
    _check_together(options)
    return options


def _values(settings: Iterable[Setting], warn: Callable[[str], None]) -> dict[str, Value]:
    """What one source says; within it the last of two settings counts, or both do."""
    values: dict[str, Value] = {}
    given: set[str] = set()
    for setting in settings:
        flag = setting.flag
        given.add(flag.name)
        if flag.deprecated:
            instead = f"! Please use '--{flag.instead}' instead." if flag.instead else ""
            warn(f"Warning: '--{flag.name}' has been deprecated{instead}")
        value: Value = _value(setting) if flag.takes_value else True
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
    return values


def _value(setting: Setting) -> Value:
    flag = setting.flag
    try:
        value = flag.parse(setting.text)
    except ValueError as error:
        raise setting.mistake(str(error)) from None
    except BadOption as error:
        if setting.place.startswith('"--'):
            raise
        raise setting.mistake(str(error)) from None
    if flag.missing and value != _DEFAULTS.get(flag.option):
        raise setting.mistake(flag.missing)
    return value


def _check_each(
    options: ServerOptions, places: Mapping[str, str], environment: Mapping[str, str]
) -> None:
    """Whether the values of each option go together. Raises BadOption."""
    checks: dict[str, Callable[[], object]] = {
        "cache_config": lambda: _check_cache(options),
        "http_restricted_api": lambda: RestrictedApis.parse(options.http_restricted_api),
        "grpc_restricted_protocol": lambda: RestrictedApis.parse(
            options.grpc_restricted_protocol, grpc=True
        ),
        "host_policy": lambda: HostPolicies(options.host_policy),
        "metrics_config": lambda: MetricsSettings.parse(options.metrics_config),
        "trace_config": lambda: parse_trace_config(options.trace_config, environment),
        "http_header_forward_pattern": lambda: HeaderForwarding(
            options.http_header_forward_pattern
        ),
        "grpc_header_forward_pattern": lambda: HeaderForwarding(
            options.grpc_header_forward_pattern
        ),
    }
    for option, check in checks.items():
        try:
            check()
        except ValueError as error:
            place = f" ({places[option]})" if places.get(option) else ""
            raise BadOption(f"Error: {error}{place}") from None


def _check_cache(options: ServerOptions) -> None:
    if options.cache_bytes is not None and options.cache_bytes <= 0:
        raise ValueError("the response cache needs a size, in bytes")


def _check_together(options: ServerOptions) -> None:
    """Whether the options go together. Raises BadOption."""
    if not options.model_repository:
        raise BadOption(
            "error: creating server: Invalid argument - --model-repository must be specified"
        )
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
        ("admin", options.has_admin_port, options.admin_address, options.admin_port),
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
