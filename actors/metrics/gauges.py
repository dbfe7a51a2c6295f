"""Gauges of the server as a whole: what waits, where it lies, who is connected, the pinned pool.

Everything is read where it is when a page is asked for: nobody counts for these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from actors.lifecycle.model_index import ModelIndex, ServingVersion
from actors.mailboxes import MailboxRegister
from actors.messages import VersionKey
from protocol.metrics_families import family
from protocol.metrics_text import Family, Sample
from repo.devices.port import MemoryUse

# Levels of one model that are on the page while they are empty.
MAX_IDLE_LEVELS: Final = 64


def serving_of(key: VersionKey, index: ModelIndex) -> ServingVersion | None:
    """The version that serves under this name and number, if one does."""
    name, version = key
    entry = index.models.get(name)
    row = entry.versions.get(version) if entry else None
    return row.serving if row else None


def version_labels(key: VersionKey, index: ModelIndex) -> dict[str, str]:
    """Model, version, its namespace if it has one, and the tags that its configuration adds."""
    name, version = key
    labels = {"model": name, "version": str(version)}
    entry = index.models.get(name)
    if entry is not None and entry.namespace:
        labels |= {"model": entry.plain_name, "namespace": entry.namespace}
    serving = serving_of(key, index)
    if serving is not None:
        labels |= {f"_{tag}": value for tag, value in serving.config.metric_tags.items()}
    return labels


def waiting(index: ModelIndex, now: float) -> list[Family]:
    """How many requests wait, and for how long, by the levels that a model has."""
    pending: list[Sample] = []
    depths: list[Sample] = []
    ages: list[Sample] = []
    for serving in index.serving():
        labels = version_labels((serving.name, serving.version), index)
        pending.append(Sample(serving.pending(), labels))
        by_level = serving.waiting()
        for level in sorted({*_shown_levels(serving), *by_level}):
            here = by_level.get(level)
            named = {**labels, "level": str(level)}
            depths.append(Sample(here.count if here else 0, named))
            ages.append(Sample(max(0.0, now - here.oldest_at) if here else 0.0, named))
    return [
        family("nv_inference_pending_request_count", pending),
        family("troupe_queue_depth", depths),
        family("troupe_queue_oldest_age_seconds", ages),
    ]


def mailbox_depths(mailboxes: MailboxRegister) -> Family:
    """What lies in the mailbox of each actor."""
    depths = mailboxes.depths().items()
    return family("troupe_mailbox_depth", [Sample(depth, name.labels()) for name, depth in depths])


def connections(counts: Mapping[str, int]) -> Family:
    """How many are open, by protocol."""
    return family(
        "troupe_connections",
        [Sample(count, {"protocol": protocol}) for protocol, count in counts.items()],
    )


def pinned_memory(use: MemoryUse) -> list[Family]:
    """The pool of page-locked memory that copies to and from GPUs go through."""
    return [
        family("nv_pinned_memory_pool_total_bytes", [Sample(use.total, {})]),
        family("nv_pinned_memory_pool_used_bytes", [Sample(use.used, {})]),
    ]


def _shown_levels(serving: ServingVersion) -> Iterable[int]:
    """The levels with series though nothing waits: a configuration may name any number of them."""
    if not serving.priority_levels:
        return (0,)
    return range(1, min(serving.priority_levels, MAX_IDLE_LEVELS) + 1)
