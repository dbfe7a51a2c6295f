"""The command line: Triton's flags by Triton's names, and its words for what is wrong."""

from __future__ import annotations

import pytest

from actors.settings.command_line import parse
from actors.settings.flag_values import BadOption
from actors.settings.options import ServerOptions

REPOSITORY = "--model-repository=models"


def refused(*arguments: str) -> str:
    with pytest.raises(BadOption) as caught:
        parse([REPOSITORY, *arguments])
    return str(caught.value)


def test_defaults_are_triton_s() -> None:
    options = parse([REPOSITORY])

    assert options == ServerOptions(model_repository=("models",))
    assert (options.http_port, options.grpc_port, options.metrics_port) == (8000, 8001, 8002)


def test_both_spellings_of_a_value_and_prefixes_are_accepted() -> None:
    options = parse([REPOSITORY, "--http-port", "9000", "--grpc-po=9001", "--allow-metr", "OFF"])

    assert (options.http_port, options.grpc_port, options.allow_metrics) == (9000, 9001, False)


def test_repeated_flags_collect() -> None:
    options = parse([REPOSITORY, "--model-store=more", "--backend-config=python,a=1",
                     "--backend-config=a=0"])  # fmt: skip

    assert options.model_repository == ("models", "more")
    assert options.backend_settings("python") == {"a": "1"}
    assert options.backend_settings("onnxruntime") == {"a": "0"}


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--http-port=abc", 'Bad option: "--http-port".\nInvalid option value. Got abc'),
        ("--allow-http=maybe", 'Bad option: "--allow-http".\ninvalid value for bool option: maybe'),
        ("--nonsense=1", 'Bad option: "--nonsense".\nunrecognized option'),
        ("--grpc-infer-thread-count=1", "Must be in the range 2 to 128."),
        ("--http-max-input-size=0", "Error: --http-max-input-size must be greater than 0."),
        ("--model-config-name=", "Error: empty argument for --model-config-name"),
        ("stray", "Unexpected argument: stray"),
        ("--load-model=m", "requires setting '--model-control-mode=explicit' as well."),
        ("--http-restricted-api=nope:a=b", "unknown restricted api 'nope' "),
        ("--model-control-mode=often", "invalid argument for --model-control-mode"),
        ("--http-port=8001", "HTTP requests and GRPC requests at the same address and port"),
    ],
)
def test_mistakes_are_named_in_triton_s_words(argument: str, text: str) -> None:
    assert text in refused(argument)


def test_a_repository_is_required() -> None:
    with pytest.raises(BadOption, match="--model-repository must be specified"):
        parse([])


def test_a_flag_that_troupe_cannot_obey_is_refused_with_the_reason() -> None:
    assert "SageMaker" in refused("--allow-sagemaker=true")
    assert parse([REPOSITORY, "--allow-sagemaker=false"])


def test_a_deprecated_flag_still_works_and_says_so() -> None:
    said: list[str] = []

    options = parse([REPOSITORY, "--strict-model-config=true"], warn=said.append)

    assert options.disable_auto_complete_config
    wanted = "has been deprecated! Please use '--disable-auto-complete-config' instead."
    assert said == [f"Warning: '--strict-model-config' {wanted}"]


def test_the_console_needs_a_port_of_its_own() -> None:
    assert not parse(["--model-repository=x"]).has_admin_port
    assert parse(["--model-repository=x", "--admin-port=0"]).has_admin_port
    expected = (
        "The server cannot listen to HTTP requests and admin requests at the same address and port "
        "127.0.0.1:8000"
    )
    with pytest.raises(BadOption, match=expected):
        parse(["--model-repository=x", "--http-address=127.0.0.1", "--admin-port=8000"])
    with pytest.raises(BadOption):
        parse(["--model-repository=x", "--admin-port=-1"])
