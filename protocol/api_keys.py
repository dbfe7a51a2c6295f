"""API keys: who may ask for what, and the one guard that every frontend puts its requests to.

Owns the form of the key file (names, hashes and categories; never a key), and the order in which a
guard refuses: restricted by a header first, then without a key, then with a key for other things.
A frontend asks `Guard.refusal` and spells what it says. No key is ever kept or repeated.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from protocol.restriction import Category, RestrictedApis

# What a file may hold. Every key costs some memory only; a file of more is a mistake.
MAX_KEYS: Final = 10_000
EVERYTHING: Final = "all"

_SHA256: Final = re.compile("[0-9a-f]{64}")


def hash_of(key: str) -> str:
    """What the file holds of a key. Keys are random and long, so a fast hash keeps them secret."""
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """Which categories a key opens, by its hash; those in `open_to_all` need none."""

    allowed: Mapping[str, frozenset[Category]] = field(default_factory=dict)
    open_to_all: frozenset[Category] = frozenset()

    @classmethod
    def parse(cls, text: str) -> ApiKeys:
        """From a file in TOML. Raises ValueError."""
        table = tomllib.loads(text)
        keys = table.pop("keys", {})
        open_to_all = _categories(table.pop("open", []), "open")
        if table:
            raise ValueError(f"unknown setting '{min(table)}'")
        if not isinstance(keys, dict) or len(keys) > MAX_KEYS:
            raise ValueError(f"'keys' must be a table of at most {MAX_KEYS} keys")
        allowed: dict[str, frozenset[Category]] = {}
        for name, entry in keys.items():
            if not isinstance(entry, dict) or entry.keys() != {"sha256", "categories"}:
                raise ValueError(f"key '{name}' needs 'sha256' and 'categories', and nothing else")
            digest = entry["sha256"]
            if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
                raise ValueError(f"key '{name}': 'sha256' must be 64 hexadecimal digits")
            if digest in allowed:
                raise ValueError(f"key '{name}' is the same as another one")
            allowed[digest] = _categories(entry["categories"], f"key '{name}'")
        return cls(allowed, open_to_all)


def _categories(words: object, where: str) -> frozenset[Category]:
    if words == EVERYTHING:
        return frozenset(Category)
    if not isinstance(words, list):
        raise ValueError(f"{where}: categories are a list, or '{EVERYTHING}'")  # noqa: TRY004  # all mistakes alike
    found: set[Category] = set()
    for word in words:
        try:
            found.add(Category(word))
        except ValueError:
            known = ", ".join(category.value for category in Category)
            raise ValueError(f"{where}: unknown category '{word}', known are {known}") from None
    return frozenset(found)


class Keyring:
    """The keys that hold now; None where no key is asked for. `epoch` counts the changes."""

    def __init__(self, keys: ApiKeys | None = None) -> None:
        self.keys = keys
        self.epoch = 0

    def replace(self, keys: ApiKeys) -> None:
        """Ask for other keys from now on, of requests on open connections too."""
        self.keys = keys
        self.epoch += 1


class Reason(enum.Enum):
    """Why a request is refused; each protocol has its own status for it."""

    RESTRICTED = enum.auto()  # HTTP 403, gRPC UNAVAILABLE: Triton's own
    NO_KEY = enum.auto()  # HTTP 401, gRPC UNAUTHENTICATED
    OTHER_KEY = enum.auto()  # HTTP 403, gRPC PERMISSION_DENIED


class Refused(NamedTuple):
    """A request that is not answered, and what its sender is told."""

    reason: Reason
    message: str


def _key_in(authorization: str) -> str | None:
    """The key in a header: as it is, or as the password that a browser asks its user for."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except ValueError:
            return None
    return None


class Guard:
    """One frontend's guard: its restricted APIs, and the keys that all frontends share."""

    def __init__(self, restricted: RestrictedApis, keyring: Keyring | None = None) -> None:
        self._restricted = restricted
        self._restricts = not restricted.is_empty
        self.keyring = keyring or Keyring()

    @property
    def is_open(self) -> bool:
        """Whether nothing is refused to anybody, now."""
        return not self._restricts and self.keyring.keys is None

    def refusal(self, category: Category, headers: Mapping[str, str]) -> Refused | None:
        """Why a request in `category` is refused, or None. `headers` has lower-case names."""
        if self._restricts:
            text = self._restricted.refusal(category, headers)
            if text is not None:
                return Refused(Reason.RESTRICTED, text)
        keys = self.keyring.keys
        if keys is None or category in keys.open_to_all:
            return None
        key = _key_in(headers.get("authorization", ""))
        # Guessing cannot be timed: what is compared is a hash, which nobody can choose bit by bit.
        allowed = None if key is None else keys.allowed.get(hash_of(key))
        if allowed is None:
            return Refused(
                Reason.NO_KEY, "This API needs a key, expecting header 'Authorization: Bearer KEY'"
            )
        if category not in allowed:
            return Refused(Reason.OTHER_KEY, f"This key does not open the {category.value} API")
        return None
