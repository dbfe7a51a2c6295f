"""`troupe key`: makes an API key and the lines of the key file that let it in.

Owns nothing: the key is printed once and kept nowhere.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from typing import Final

from protocol.api_keys import EVERYTHING, hash_of
from protocol.restriction import Category

USAGE: Final = "usage: troupe key NAME [CATEGORY ...]\n\ncategories: " + ", ".join(
    category.value for category in Category
)
KEY_BYTES: Final = 32


def key(arguments: Sequence[str]) -> int:
    """Make a key for the categories named, or for all; the result is the exit status."""
    known = {category.value for category in Category}
    if not arguments or arguments[0].startswith("-") or set(arguments[1:]) - known:
        print(USAGE, file=sys.stderr)
        return 1
    name, *categories = arguments
    made = secrets.token_urlsafe(KEY_BYTES)
    listed = ", ".join(f'"{category}"' for category in categories)
    print(f"Authorization: Bearer {made}", file=sys.stderr)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    print(f'[keys."{quoted}"]\nsha256 = "{hash_of(made)}"')
    print(f"categories = [{listed}]" if categories else f'categories = "{EVERYTHING}"')
    return 0
