"""Who reads a repository in object storage: arguments for its fsspec file system.

Credentials come from a file, if TRITON_CLOUD_CREDENTIAL_PATH names one, and else from the
environment, by the variables of each service. The file is read anew whenever it is asked, so that
credentials can be rotated. They are never logged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from protocol.status import invalid_arg, not_found
from repo.cloud.locations import CloudLocation

CREDENTIAL_FILE: Final = "TRITON_CLOUD_CREDENTIAL_PATH"
# An object store that does not answer is told from one that is slow, within the patience of people.
CONNECT_SECONDS: Final = 10
READ_SECONDS: Final = 60
ATTEMPTS: Final = 4

Arguments = dict[str, Any]


def arguments(location: CloudLocation, environment: Mapping[str, str]) -> Arguments:
    """Keyword arguments of the file system that can read `location`.

    Raises NOT_FOUND when the credential file has nothing for it, INVALID_ARG when that is no
    credential file.
    """
    path = environment.get(CREDENTIAL_FILE)
    if path:
        return _OF_SCHEME[location.scheme](location, _entry(Path(path), location), {})
    return _OF_SCHEME[location.scheme](location, None, environment)


def _entry(path: Path, location: CloudLocation) -> object:
    """What the file has for the longest prefix that the location begins with."""
    try:
        document = json.loads(path.read_bytes())
        of_scheme = document.get(location.scheme, {})
        prefixes = [prefix for prefix in of_scheme if location.text.startswith(prefix)]
    except (OSError, ValueError, AttributeError) as error:
        raise invalid_arg(f"cannot read the cloud credential file '{path}': {error}") from None
    if not prefixes:
        raise not_found(f"Cannot match credential for path  {location.text}")
    return of_scheme[max(prefixes, key=len)]


def _fields(entry: object, location: CloudLocation) -> Mapping[str, str]:
    match entry:
        case {**fields} if all(isinstance(value, str) for value in fields.values()):
            return fields  # type: ignore[return-value]  # just checked
        case _:
            raise invalid_arg(f"credentials for '{location.text}' must be an object of strings")


def _s3(location: CloudLocation, entry: object, environment: Mapping[str, str]) -> Arguments:
    """Without an entry, botocore itself looks at AWS_* and at the default profile."""
    client: Arguments = {}
    if location.endpoint:
        client["endpoint_url"] = location.endpoint
    found: Arguments = {
        "client_kwargs": client,
        "config_kwargs": {
            # A server of one's own seldom has a name for each bucket.
            "s3": {"addressing_style": "path"},
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"max_attempts": ATTEMPTS, "mode": "standard"},
        },
    }
    fields = {} if entry is None else _fields(entry, location)
    names = {"key_id": "key", "secret_key": "secret", "session_token": "token"}
    found |= {names[name]: fields[name] for name in names if fields.get(name)}
    if fields.get("profile") and not fields.get("key_id"):
        found["profile"] = fields["profile"]
    region = fields.get("region") or environment.get("AWS_DEFAULT_REGION")
    if region:
        client["region_name"] = region
    return found


def _gs(location: CloudLocation, entry: object, environment: Mapping[str, str]) -> Arguments:
    """A file of user or service-account credentials; without one, the machine's, or nobody's."""
    if entry is not None and not isinstance(entry, str):
        raise invalid_arg(f"credentials for '{location.text}' must be the path of a file")
    path = entry or environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if path:
        return {"token": path}
    if environment.get("STORAGE_EMULATOR_HOST"):
        return {"token": "anon"}
    return {}


def _as(location: CloudLocation, entry: object, environment: Mapping[str, str]) -> Arguments:
    """A key, an identity of the machine, whatever azure-identity finds, or nobody."""
    fields: Mapping[str, str]
    if entry is None:
        names = {
            "account_str": "AZURE_STORAGE_ACCOUNT",
            "account_key": "AZURE_STORAGE_KEY",
            "auth_type": "AZURE_STORAGE_AUTH_TYPE",
            "client_id": "AZURE_STORAGE_CLIENT_ID",
        }
        fields = {name: environment.get(variable, "") for name, variable in names.items()}
    else:
        fields = _fields(entry, location)
    found: Arguments = {
        "account_name": fields.get("account_str") or location.account,
        "connection_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
    }
    key = fields.get("account_key")
    auth_type = (fields.get("auth_type") or ("key" if key else "")).lower()
    match auth_type:
        case "key" if key:
            found["account_key"] = key
        case "key":
            raise invalid_arg(f"no account key for '{location.text}'")
        case "managed_identity":
            found["credential"] = _managed_identity(fields.get("client_id") or None)
        case "default":
            found["anon"] = False  # adlfs then asks azure-identity's default chain
        case "":
            found["anon"] = not environment.get("AZURE_STORAGE_CONNECTION_STRING")
        case _:
            raise invalid_arg(
                f"unknown authentication type '{auth_type}' for '{location.text}', expected key, "
                "managed_identity or default"
            )
    return found


def _managed_identity(client_id: str | None) -> object:
    from azure.identity.aio import ManagedIdentityCredential

    return ManagedIdentityCredential(client_id=client_id)


_OF_SCHEME: Final[Mapping[str, Callable[[CloudLocation, object, Mapping[str, str]], Arguments]]] = {
    "s3": _s3,
    "gs": _gs,
    "as": _as,
}
