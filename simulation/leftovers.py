"""Finds what a server leaves open when it has ended.

The law says that mailboxes are made in the wiring only and that each is closed by its owner. Here
every mailbox that is made within a run is remembered, so that a door that nobody closed is found
whoever made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from actors.channels import Mailbox


@contextmanager
def remembered_mailboxes() -> Iterator[list[Mailbox]]:
    """Within this block every new mailbox joins the list that is yielded."""
    mailboxes: list[Mailbox] = []
    original = Mailbox.__init__

    def remember(mailbox: Mailbox) -> None:
        original(mailbox)
        mailboxes.append(mailbox)

    setattr(Mailbox, "__init__", remember)  # noqa: B010  # a plain assignment is a type error
    try:
        yield mailboxes
    finally:
        setattr(Mailbox, "__init__", original)  # noqa: B010


def open_doors(mailboxes: list[Mailbox]) -> list[str]:
    """A line for each mailbox with doors that still accept messages."""
    found: list[str] = []
    for number, mailbox in enumerate(mailboxes):
        still_open = sum(not door.is_closed for door in mailbox.doors)
        if still_open:
            found.append(f"mailbox {number} of {len(mailboxes)} has {still_open} open door(s)")
    return found
