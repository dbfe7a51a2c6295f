"""Which groups of operations need a secret header, on every frontend alike.

Owns the categories, the parsing of `--http-restricted-api` and `--grpc-restricted-protocol`, and
the comparison. It never answers: a frontend asks `refusal` and spells what it says.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Iterable, Mapping
from typing import Final

GRPC_KEY_PREFIX: Final = "triton-grpc-protocol-"


class Category(enum.Enum):
    """A group of operations that can be restricted together; the values are the flag's words."""

    HEALTH = "health"
    METADATA = "metadata"
    INFERENCE = "inference"
    SHARED_MEMORY = "shared-memory"
    MODEL_CONFIG = "model-config"
    MODEL_REPOSITORY = "model-repository"
    STATISTICS = "statistics"
    TRACE = "trace"
    LOGGING = "logging"


class RestrictedApis:
    """Category → the header that a request in it must carry, with its exact value."""

    def __init__(self, required: Mapping[Category, tuple[str, str]], *, grpc: bool = False) -> None:
        """`required` maps to (header name as it is told, value)."""
        self._noun = "protocol" if grpc else "API"
        self._encoding = "utf-8" if grpc else "latin-1"  # how header values became `str`
        self._required = {
            category: (name, name.lower(), value.encode("utf-8", "surrogateescape"))
            for category, (name, value) in required.items()
        }

    @classmethod
    def parse(cls, flags: Iterable[str], *, grpc: bool = False) -> RestrictedApis:
        """From the values of the repeatable flag: `<category>[,<category>…]:<key>=<value>`.

        For gRPC the key names the metadata `triton-grpc-protocol-<key>`. Raises ValueError with
        the text that the command line prints.
        """
        word, flag = (
            ("protocol", "grpc-restricted-protocol") if grpc else ("api", "http-restricted-api")
        )
        required: dict[Category, tuple[str, str]] = {}
        for text in flags:
            names, colon, header = text.partition(":")
            key, equals, value = header.partition("=")
            if not (names and colon and key and equals):
                raise ValueError(
                    f"malformed --{flag} option format is <{word}s>:<key>=<value>. Got {text}"
                )
            for name in names.split(","):
                try:
                    category = Category(name)
                except ValueError:
                    raise ValueError(f"unknown restricted {word} '{name}' ") from None
                if category in required:
                    raise ValueError(
                        f"restricted {word} '{name}' can not be specified in multiple config groups"
                    )
                required[category] = (f"{GRPC_KEY_PREFIX}{key}" if grpc else key, value)
        return cls(required, grpc=grpc)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is restricted."""
        return not self._required

    def refusal(self, category: Category, headers: Mapping[str, str]) -> str | None:
        """Why a request in `category` is refused, or None. `headers` has lower-case names.

        Takes the same time wherever in the value a wrong guess differs.
        """
        required = self._required.get(category)
        if required is None:
            return None
        name, key, expected = required
        given = headers.get(key)
        if given is not None:
            secret = given.encode(self._encoding, "backslashreplace")
            if hmac.compare_digest(secret, expected):
                return None
        return f"This {self._noun} is restricted, expecting header '{name}'"
