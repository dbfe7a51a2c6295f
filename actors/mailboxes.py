"""Which actor has which mailbox: the list that metrics and the console look through.

The wiring opens every long-lived mailbox here, under its actor's name. Looking takes nothing out
and wakes nobody. A mailbox that its owner has closed is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from actors.channels import Mailbox
from actors.messages import VersionKey


@dataclass(frozen=True, slots=True)
class ActorName:
    """What an actor is, and whose: `model` is empty for those of the whole server."""

    role: str
    model: str = ""
    version: int = 0

    def labels(self) -> Mapping[str, str]:
        """As labels of a metric."""
        if not self.model:
            return {"actor": self.role}
        return {"actor": self.role, "model": self.model, "version": str(self.version)}

    def __str__(self) -> str:
        return f"{self.role} {self.model}/{self.version}" if self.model else self.role


class MailboxRegister:
    """Every open mailbox by its actor; two generations of a version may share a name."""

    def __init__(self) -> None:
        self._named: list[tuple[ActorName, Mailbox]] = []

    def open(self, role: str, key: VersionKey = ("", 0)) -> Mailbox:
        """A new mailbox for an actor; the actor closes it."""
        mailbox = Mailbox()
        self._named = [entry for entry in self._named if not entry[1].is_closed]
        self._named.append((ActorName(role, *key), mailbox))
        return mailbox

    def __iter__(self) -> Iterator[tuple[ActorName, Mailbox]]:
        """Those that are open now."""
        return iter([entry for entry in self._named if not entry[1].is_closed])

    def depths(self) -> dict[ActorName, int]:
        """How many messages nobody has taken yet, by actor."""
        found: dict[ActorName, int] = {}
        for name, mailbox in self:
            found[name] = found.get(name, 0) + mailbox.depth
        return found
