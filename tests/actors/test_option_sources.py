"""Options from a file and from the environment, and who prevails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from actors.settings.command_line import parse
from actors.settings.flag_values import BadOption
from actors.settings.options import ServerOptions

REPOSITORY = "--model-repository=models"


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "troupe.toml"
    path.write_text(text)
    return str(path)


def refused(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    with pytest.raises(BadOption) as caught:
        parse([REPOSITORY, *arguments], environment=environment)
    return str(caught.value)


def test_a_file_holds_every_option_by_its_name(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        # how we serve
        model-repository = ["a", "b"]
        http-port = 9000
        grpc_port = 9001
        allow-metrics = false
        disable-auto-complete-config = true
        min-supported-compute-capability = 8.5
        log-format = "ISO8601"
        backend-config = "python,shm-default-byte-size=1"
        """,
    )

    options = parse([f"--config={path}"])

    assert options == ServerOptions(
        model_repository=("a", "b"),
        http_port=9000,
        grpc_port=9001,
        allow_metrics=False,
        disable_auto_complete_config=True,
        min_supported_compute_capability=8.5,
        log_format="ISO8601",
        backend_config=("python,shm-default-byte-size=1",),
    )
    assert not parse(
        [REPOSITORY, f"--config={written(tmp_path, 'disable-auto-complete-config = false')}"]
    ).disable_auto_complete_config


def test_the_environment_holds_every_option(tmp_path: Path) -> None:
    options = parse(
        [],
        environment={
            "TROUPE_MODEL_REPOSITORY": "a:b\nc",
            "TROUPE_HTTP_PORT": "9000",
            "TROUPE_ALLOW_GRPC": "off",
            "TROUPE_DISABLE_AUTO_COMPLETE_CONFIG": "true",
            "TROUPE_CONFIG": written(tmp_path, 'id = "from the file"'),
            "HTTP_PORT": "1",
        },
    )

    assert options == ServerOptions(
        model_repository=("a:b", "c"),
        http_port=9000,
        allow_grpc=False,
        disable_auto_complete_config=True,
        id="from the file",
    )


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = written(
        tmp_path, 'id = "file"\nhttp-port = 1\ngrpc-port = 1\nbackend-config = ["a=1", "b=1"]\n'
    )
    environment = {"TROUPE_ID": "env", "TROUPE_HTTP_PORT": "2", "TROUPE_BACKEND_CONFIG": "c=2"}

    options = parse([REPOSITORY, f"--config={path}", "--id=flag"], environment=environment)

    assert (options.id, options.http_port, options.grpc_port) == ("flag", 2, 1)
    assert options.metrics_port == 8002
    assert options.backend_config == ("c=2",)  # a source replaces what lies below it


@pytest.mark.parametrize(("text", "message"), [
    ("\n\nhttp-port = 'abc'", ":3.\nInvalid option value. Got abc"),
    ("id = 'x'\nhttp-prot = 1", "Bad option: http-prot at {path}:2.\nunrecognized option"),
    ("http-port = [1]", ":1.\nit takes one value, not a list"),
    ("id = 'x'\n[http]\nport = 1", "Bad option: http at {path}:2.\nunrecognized option"),
    ("id = {x = 1}", ":1.\na value is a text, a number, true or false"),
    ("disable-auto-complete-config = 1", ":1.\ninvalid value for bool option: 1"),
    ("http-max-input-size = 0", ":1.\nError: --http-max-input-size must be greater than 0."),
    ("id = 'a'\nid = 'b'\n", "Bad option: {path}.\nCannot overwrite a value (at line 2"),
    ("id = ", "Bad option: {path}.\nInvalid value (at "),
    ("id = '\xff'", "Bad option: {path}.\n'utf-8' codec can't decode"),
    ("help = true", "unrecognized option"),
    ("config = 'x'", "unrecognized option"),
    ("\nhost-policy = ['x']\n", "(host-policy at {path}:2)"),
    ("allow-sagemaker = true", ":1.\nthe SageMaker frontend is not part of Troupe"),
    ("id = '" + "x" * (1 << 20) + "'", "Bad option: {path}.\nit is longer than 1048576 bytes"),
])  # fmt: skip
def test_a_mistake_in_a_file_is_shown_where_it_stands(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "troupe.toml"
    path.write_bytes(text.encode("latin-1"))

    assert message.format(path=path) in refused(f"--config={path}")


def test_a_file_that_is_not_there() -> None:
    said = refused("--config=/nope.toml")

    assert said == "Bad option: /nope.toml.\nit cannot be read: No such file or directory"


@pytest.mark.parametrize(("variable", "value", "message"), [
    ("TROUPE_HTTP_PORT", "tcp://10.0.0.1:80",
     "Bad option: TROUPE_HTTP_PORT in the environment.\nInvalid option value. Got tcp://"),
    ("TROUPE_DISABLE_AUTO_COMPLETE_CONFIG", "maybe",
     "TROUPE_DISABLE_AUTO_COMPLETE_CONFIG in the environment.\ninvalid value for bool option"),
    ("TROUPE_HTTP_RESTRICTED_API", "health:k=v\nhealth:k=w",
     "multiple config groups (TROUPE_HTTP_RESTRICTED_API in the environment)"),
])  # fmt: skip
def test_a_mistake_in_the_environment_is_shown_by_its_variable(
    variable: str, value: str, message: str
) -> None:
    assert message in refused(environment={variable: value})


def test_a_place_below_is_not_blamed_for_what_prevails_over_it() -> None:
    said = refused("--host-policy=x", environment={"TROUPE_HOST_POLICY": "y"})

    assert "environment" not in said


def test_variables_that_name_no_option_are_pointed_out() -> None:
    said: list[str] = []

    parse([REPOSITORY], said.append, environment={"TROUPE_HTPP_PORT": "1", "PATH": "x"})

    assert said == ["Warning: variables of the environment that name no option: TROUPE_HTPP_PORT"]
