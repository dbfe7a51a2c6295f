"""API keys: the file that names them, and what a guard says to whom."""

from __future__ import annotations

import base64

import pytest

from protocol.api_keys import ApiKeys, Guard, Keyring, Reason, hash_of
from protocol.restriction import Category, RestrictedApis

FILE = f"""
open = ["health"]

[keys.ci]
sha256 = "{hash_of("k-ci")}"
categories = ["inference", "metadata"]

[keys."the boss"]
sha256 = "{hash_of("k-boss")}"
categories = "all"
"""

PASSWORD = base64.b64encode(b"anybody:k-boss").decode()
NEEDS_KEY = "This API needs a key, expecting header 'Authorization: Bearer KEY'"


def guard(text: str = FILE, *restricted: str) -> Guard:
    return Guard(RestrictedApis.parse(restricted), Keyring(ApiKeys.parse(text)))


@pytest.mark.parametrize("category", list(Category))
@pytest.mark.parametrize(("header", "opens"), [
    (None, "health"),
    ("", "health"),
    ("Bearer", "health"),
    ("Bearer ", "health"),
    ("Bearer nope", "health"),
    ("Bearer k-boss, Bearer k-boss", "health"),
    ("Basic k-boss", "health"),
    ("k-boss", "health"),
    (f"Bearer {hash_of('k-boss')}", "health"),  # who reads the file has no key
    ("Bearer k-ci", "health inference metadata"),
    ("bearer  k-ci", "health inference metadata"),
    (f"Basic {PASSWORD}", " ".join(category.value for category in Category)),
    ("Basic " + PASSWORD[1:], "health"),
    ("Bearer k-boss", " ".join(category.value for category in Category)),
])  # fmt: skip
def test_a_key_opens_its_categories_and_no_other(
    category: Category, header: str | None, opens: str
) -> None:
    refused = guard().refusal(category, {} if header is None else {"authorization": header})

    if category.value in opens.split():
        assert refused is None
    elif header is not None and header.endswith("k-ci"):
        text = f"This key does not open the {category.value} API"
        assert refused == (Reason.OTHER_KEY, text)
    else:
        assert refused == (Reason.NO_KEY, NEEDS_KEY)


def test_a_restriction_holds_for_keys_too() -> None:
    both = guard(FILE, "metadata:x=y")
    key = {"authorization": "Bearer k-boss"}

    assert both.refusal(Category.METADATA, key) == (
        Reason.RESTRICTED, "This API is restricted, expecting header 'x'",
    )  # fmt: skip
    assert both.refusal(Category.METADATA, {"x": "y"}) == (Reason.NO_KEY, NEEDS_KEY)
    assert both.refusal(Category.METADATA, key | {"x": "y"}) is None


def test_keys_can_be_replaced() -> None:
    changing = guard()
    key = {"authorization": "Bearer k-ci"}
    assert changing.refusal(Category.INFERENCE, key) is None

    changing.keyring.replace(ApiKeys.parse(""))

    assert changing.refusal(Category.INFERENCE, key) == (Reason.NO_KEY, NEEDS_KEY)
    assert changing.keyring.epoch == 1


def test_without_keys_nobody_needs_one() -> None:
    assert Guard(RestrictedApis({})).is_open
    assert not guard("").is_open
    assert Guard(RestrictedApis({})).refusal(Category.LOGGING, {}) is None


DIGEST = hash_of("k")
TWICE = "".join(f"[keys.{name}]\nsha256 = '{DIGEST}'\ncategories = []\n" for name in "ab")


@pytest.mark.parametrize(("text", "reason"), [
    ("keys = 1", "'keys' must be a table of at most 10000 keys"),
    ("key = 1", "unknown setting 'key'"),
    ("open = 'health'", "open: categories are a list, or 'all'"),
    ("open = ['x']", "open: unknown category 'x', known are health, metadata, inference, "),
    ("[keys.a]\nsha256 = 'x'\ncategories = []", "key 'a': 'sha256' must be 64 hexadecimal digits"),
    (f"[keys.a]\nsha256 = '{DIGEST}'", "key 'a' needs 'sha256' and 'categories', and nothing else"),
    (f"[keys.a]\nsha256 = '{DIGEST}'\ncategories = 1", "key 'a': categories are a list, or 'all'"),
    (f"[keys.a]\nkey = 'k'\nsha256 = '{DIGEST}'\ncategories = []", "and nothing else"),
    (TWICE, "key 'b' is the same as another one"),
    ("[keys", "Expected ']' at the end"),
])  # fmt: skip
def test_a_mistake_in_the_file_is_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        ApiKeys.parse(text)
    assert reason in str(caught.value)
