"""`pb_utils.MetricFamily`: metrics of the model's own, kept and published by the server.

Families and metrics of the same name and labels are shared by all instances, so the values live in
the server. Updates are only told to it; what would be wrong with one is known here.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence

from . import host as hosts
from . import wire
from .errors import TritonModelException, expect


class MetricKind(enum.IntEnum):
    """The numbers are those of Triton's C API."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


_OPERATIONS = {
    wire.INCREMENT: ("increment", "Increment", {MetricKind.COUNTER, MetricKind.GAUGE}),
    wire.SET: ("set", "Set", {MetricKind.GAUGE}),
    wire.OBSERVE: ("observe", "Observe", {MetricKind.HISTOGRAM}),
}


class Metric:
    """One metric of a family; made by `MetricFamily.Metric`."""

    def __init__(
        self, family: MetricFamily, labels: Mapping[str, bytes], buckets: Sequence[float]
    ) -> None:
        # Not a reference to the family: its end must be able to come first.
        self._state = family._state
        host = hosts.current()
        self._number = host.next_number()
        packed = struct.pack(f"<{len(buckets)}d", *buckets)
        answer = host.ask(
            lambda n: wire.OpenMetric(n, self._number, self._state.name, labels, packed)
        )
        if answer.error:
            self._number = -1
            raise TritonModelException(
                f"Error when creating Metric: {host.failed_here()}{answer.error}"
            )

    def __del__(self) -> None:
        if getattr(self, "_number", -1) >= 0:
            hosts.current().send_soon(wire.CloseMetric(self._number))

    def increment(self, value: float) -> None:
        """Add to a counter (not less than 0) or a gauge. Raises TritonModelException."""
        self._update(wire.INCREMENT, value)

    def set(self, value: float) -> None:
        """Set a gauge. Raises TritonModelException."""
        self._update(wire.SET, value)

    def observe(self, value: float) -> None:
        """Put a value into a histogram. Raises TritonModelException."""
        self._update(wire.OBSERVE, value)

    def value(self) -> float:
        """The current value of a counter or a gauge. Raises TritonModelException."""
        self._check_family("get")
        host = hosts.current()
        if self._state.kind is MetricKind.HISTOGRAM:
            raise TritonModelException(
                f"Failed to get metric value: {host.failed_here()}"
                "TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Value"
            )
        answer = host.ask(lambda n: wire.AskMetric(n, self._number))
        if answer.error:
            raise TritonModelException(
                f"Failed to get metric value: {host.failed_here()}{answer.error}"
            )
        return answer.value

    def _update(self, operation: int, value: float) -> None:
        expect(value, (int, float), "value")
        verb, name, kinds = _OPERATIONS[operation]
        self._check_family(verb)
        host = hosts.current()
        kind = self._state.kind
        problem = ""
        if kind not in kinds:
            problem = f"TRITONSERVER_METRIC_KIND_{kind.name} does not support {name}"
        elif kind is MetricKind.COUNTER and value < 0:
            problem = (
                "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by "
                "non-negative values."
            )
        if problem:
            raise TritonModelException(
                f"Failed to {verb} metric value: {host.failed_here()}{problem}"
            )
        host.send(wire.UpdateMetric(self._number, operation, float(value)))

    def _check_family(self, verb: str) -> None:
        if self._state.deleted:
            raise TritonModelException(
                f"Failed to {verb} metric value: "
                "Invalid metric operation as the corresponding 'MetricFamily' has been deleted. "
                "The 'MetricFamily' object should be deleted AFTER its corresponding 'Metric' "
                "objects have been deleted."
            )


class _FamilyState:
    __slots__ = ("deleted", "kind", "name")

    def __init__(self, name: str, kind: MetricKind) -> None:
        self.name = name
        self.kind = kind
        self.deleted = False


class MetricFamily:
    """Metrics that share a name and differ in their labels."""

    COUNTER = MetricKind.COUNTER
    GAUGE = MetricKind.GAUGE
    HISTOGRAM = MetricKind.HISTOGRAM

    def __init__(self, name: str, description: str, kind: MetricKind) -> None:
        """Raises TritonModelException when the name is taken by another kind of metric."""
        expect(name, str, "name")
        expect(description, str, "description")
        expect(kind, MetricKind, "kind")
        answer = hosts.current().ask(lambda n: wire.OpenFamily(n, name, description, int(kind)))
        if answer.error:
            raise TritonModelException(
                f"Error when creating MetricFamily: {hosts.current().failed_here()}{answer.error}"
            )
        self._state = _FamilyState(name, kind)

    def __del__(self) -> None:
        state = getattr(self, "_state", None)
        if state is not None:
            state.deleted = True
            hosts.current().send_soon(wire.CloseFamily(state.name))

    def Metric(  # noqa: N802  # Triton's name
        self,
        labels: Mapping[str, str] | None = None,
        buckets: Sequence[float] | None = None,
    ) -> Metric:
        """A metric of this family; a histogram needs the upper bounds of its buckets."""
        if labels is not None and not isinstance(labels, dict):
            raise TritonModelException("Failed to create metric. Labels must be a dictionary.")
        if buckets is not None and not isinstance(buckets, list):
            raise TritonModelException("Failed to create metric. Buckets must be a list.")
        is_histogram = self._state.kind is MetricKind.HISTOGRAM
        if buckets is not None and not is_histogram:
            raise TritonModelException("Failed to create metric. Unexpected buckets found.")
        if buckets is None and is_histogram:
            raise TritonModelException("Failed to create metric. Missing required buckets.")
        return Metric(
            self,
            {str(key): _label(value) for key, value in (labels or {}).items()},
            [float(bound) for bound in buckets or ()],
        )


def _label(value: object) -> bytes:
    if not isinstance(value, str):
        raise TritonModelException(
            f"Error when creating Metric: {hosts.current().failed_here()}"
            "attempt to access JSON non-string as string"
        )
    return value.encode("utf-8", "replace")
