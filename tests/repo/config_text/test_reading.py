"""Configurations in JSON and YAML: what they may say, and where a mistake is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.status import ServerError, StatusCode
from repo.config_files import READERS, parse_text, read_config
from repo.config_text.nodes import MalformedText
from repo.config_text.schema import Syntax, nearest, survey
from repo.config_text.yaml_text import MAX_YAML_CHARACTERS
from repo.scan import ModelIdentity, read_entry
from repo.storage import LocalStorage

SAME: dict[Syntax, str] = {
    "pbtxt": 'name: "m" max_batch_size: 8 input { name: "I" data_type: TYPE_FP32 dims: [ 3, -1 ] } '
    'parameters { key: "on" value { string_value: "no" } }',
    "json": '{"name": "m", "maxBatchSize": "8", "input": [{"name": "I", "data_type": "type_fp32", '
    '"dims": [3, "-1"]}], "parameters": {"on": {"string_value": "no"}}}',
    "yaml": "name: m\nmax_batch_size: 8\ninput:\n- name: I\n  data_type: TYPE_FP32\n"
    "  dims: [3, -1]\nparameters:\n  on: {string_value: no}\n",
}


@pytest.mark.parametrize("syntax", ["json", "yaml"])
def test_the_forms_say_the_same(syntax: Syntax) -> None:
    wanted = parse_text(SAME["pbtxt"].encode(), "pbtxt", "a")
    assert bytes(parse_text(SAME[syntax].encode(), syntax, "b")) == bytes(wanted)


BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("syntax", "text", "message"),
    [
        ("json", '{"name": }', "failed to read JSON from c:1:10: Expecting value"),
        ("json", "[1]", "failed to read JSON from c:1:1: the text is no JSON object"),
        (
            "json",
            '{"name": "a", "name": "b"}',
            'failed to read JSON from c:1:15: "name" is given twice',
        ),
        (
            "json",
            '{"max_batch_size": NaN}',
            ("failed to read JSON from c: NaN is no JSON; write it as a string"),
        ),
        (
            "json",
            '{\n "maxbatch": 1}',
            (
                "failed to read JSON from c:2:2: Message type "
                '"inference.ModelConfig" has no field named "maxbatch"'
            ),
        ),
        (
            "json",
            '{"input": [{"dims": [1, "x"]}]}',
            ('failed to read JSON from c:1:25: "dims" is an integer, not x'),
        ),
        (
            "json",
            '{"input": [{"data_type": "FP32"}]}',
            (
                "failed to read JSON from c:1:26: Enum type "
                '"inference.DataType" has no value named FP32'
            ),
        ),
        (
            "json",
            '{"max_batch_size": 4294967296}',
            (
                'failed to read JSON from c:1:20: "max_batch_size" '
                "must be in [-2147483648, 2147483647], not 4294967296"
            ),
        ),
        (
            "json",
            '{"dynamic_batching": {}, "sequence_batching": {}}',
            (
                "failed to read JSON from c:1:26: "
                'Field "sequence_batching" is specified along with field "dynamic_batching", '
                'another member of oneof "scheduling_choice"'
            ),
        ),
        (
            "json",
            '{"a":' * 40 + "1" + "}" * 40,
            ("failed to read JSON from c:1:161: nested more than 32 levels deep"),
        ),
        ("yaml", "name: [", "failed to read YAML from c:2:1: did not find expected node content"),
        ("yaml", "name: a\nname: b", 'failed to read YAML from c:2:1: "name" is given twice'),
        ("yaml", "- a", "failed to read YAML from c:1:1: the text is no YAML mapping"),
        (
            "yaml",
            "name: !!python/name:os.system x",
            (
                "failed to read YAML from c:1:7: tag "
                "'tag:yaml.org,2002:python/name:os.system' means nothing here"
            ),
        ),
        ("yaml", "a: 1\n---\nb: 2", "failed to read YAML from c:2:1: a second document"),
        (
            "yaml",
            "a: &a [*a]",
            "failed to read YAML from c:1:8: alias 'a' of nothing that is complete",
        ),
        ("yaml", "? [a]\n: b", "failed to read YAML from c:1:3: a name must be a word"),
        (
            "yaml",
            "response_cache: {enable: yes}",
            ('failed to read YAML from c:1:26: "enable" is a bool, not yes'),
        ),
        ("yaml", BOMB, "failed to read YAML from c: more than 200000 values, aliases included"),
        ("yaml", "[" * 40, "failed to read YAML from c:1:33: nested more than 32 levels deep"),
        (
            "yaml",
            "#" * (MAX_YAML_CHARACTERS + 1),
            (
                "failed to read YAML from c: text exceeds the maximum "
                f"of {MAX_YAML_CHARACTERS} characters"
            ),
        ),
    ],
)
def test_mistakes_are_found_where_they_are(syntax: Syntax, text: str, message: str) -> None:
    with pytest.raises(ServerError) as caught:
        parse_text(text.encode(), syntax, "c")
    assert caught.value.status is StatusCode.INTERNAL
    assert caught.value.message == message


def test_an_alias_stands_for_its_anchor() -> None:
    text = "input: [&t {name: A, data_type: TYPE_FP32, dims: [1]}]\noutput: [*t]"
    config = parse_text(text.encode(), "yaml", "c")
    assert config.output[0].name == "A"


@pytest.mark.parametrize("syntax", list(SAME))
def test_every_field_has_a_place(syntax: Syntax) -> None:
    text = SAME[syntax]
    places = survey(READERS[syntax](text), syntax).places
    for path, word in {
        "input[0].dims[1]": "-1",
        "input[0].name": "I",
        'parameters["on"]': "on",
        'parameters["on"].string_value': "no",
    }.items():
        place = places[path]
        assert text[place.start : place.end].strip('"') == word
        assert text.splitlines()[place.line - 1][place.column - 1 :].startswith(
            text[place.start : place.end]
        )


def test_unread_text_has_no_places() -> None:
    with pytest.raises(MalformedText):
        READERS["pbtxt"]("a { b: ")


@pytest.mark.parametrize(("word", "meant"), [
    ("dimz", "dims"), ("datatype", "data_type"), ("DIMS", "dims"), ("zebra", ""),
    ("dims" * 1_000_000, ""),
])  # fmt: skip
def test_a_slip_has_a_nearest_name(word: str, meant: str) -> None:
    assert nearest(word, ["name", "data_type", "dims"]) == meant


def test_one_form_at_a_time(tmp_path: Path) -> None:
    model = tmp_path / "m"
    (model / "configs").mkdir(parents=True)
    (model / "config.yaml").write_text("max_batch_size: 1")
    (model / "configs" / "fast.json").write_text('{"max_batch_size": 2}')

    def chosen(name: str) -> int:
        entry = read_entry(LocalStorage(str(tmp_path)), ModelIdentity("", "m"), "m")
        path = entry.config_path(name)
        assert path is not None
        return read_config(tmp_path / path).max_batch_size

    assert [chosen(""), chosen("fast"), chosen("slow")] == [1, 2, 1]
    (model / "config.pbtxt").write_text("")
    with pytest.raises(ServerError) as caught:
        chosen("")
    assert caught.value.message == (
        "model 'm' has more than one configuration: config.pbtxt, config.yaml; keep one"
    )
    (model / "configs" / "fast.pbtxt").write_text("")
    with pytest.raises(ServerError, match=r"configs/fast.json, configs/fast.pbtxt; keep one"):
        chosen("fast")


def test_a_long_word_is_not_repeated_at_length() -> None:
    with pytest.raises(ServerError) as caught:
        parse_text(b'{"%s": 1}' % (b"x" * 1_000_000), "json", "c")
    assert len(caught.value.message) < 1000
