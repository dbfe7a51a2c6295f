"""How much mischief one HTTP/2 peer may do: a token budget, and gRPC's rule for pings.

Owns the prices. A flat count of resets or pings either hurts an honest, busy client or lets an
attacker in; here useful work and time earn tokens, and each frame that costs the server more than
it costs the peer spends some. It never ends a connection: its callers do.
"""

from __future__ import annotations

import math
from typing import Final

# What one of these costs. A client that cancels half of its calls, or resets one for each that it
# lets finish, breaks even: a finished call earns more than a cancelled one costs.
COST_PEER_RESET: Final = 1.0  # rapid reset: work was begun for nothing
COST_STREAM_ERROR: Final = 2.0  # "made you reset": the peer made the server end a call
COST_REFUSED: Final = 1.0  # a call beyond the limit or after GOAWAY
COST_SETTINGS: Final = 5.0  # touches every call's window and asks for an answer
COST_PING: Final = 1.0
COST_CONTINUATION: Final = 1.0
COST_IDLE_FRAME: Final = 0.5  # PRIORITY, unknown kinds, frames of calls that are over
COST_WINDOW_UPDATE: Final = 0.25  # an honest peer sends at most two per DATA frame it gets
COST_CRUMB: Final = 0.25  # a DATA frame that is empty or tiny and ends nothing
COST_TINY_MESSAGE: Final = 0.25  # until it is acknowledged, it costs more than its bytes
COST_PLAIN_HTTP: Final = 1.0  # a request that is not gRPC

EARNED_BY_CALL: Final = 2.0
EARNED_BY_MESSAGE: Final = 1.0
EARNED_BY_FRAME_SENT: Final = 0.5

# A DATA frame below this many bytes that ends no message is a crumb.
CRUMB_BYTES: Final = 128

# A message below this is no inference request, and its place in a queue is 20 times as large.
TINY_MESSAGE_BYTES: Final = 16

# gRPC's C core: without calls a ping every two hours is enough.
IDLE_PING_INTERVAL_SECONDS: Final = 7_200.0


class Budget:
    """A token bucket. `tokens` may be raised by anyone who has seen useful work done."""

    __slots__ = ("_at", "_capacity", "_per_second", "tokens")

    def __init__(self, capacity: float, per_second: float) -> None:
        self.tokens = capacity
        self._capacity = capacity
        self._per_second = per_second
        self._at = -math.inf

    def charge(self, cost: float, now: float) -> bool:
        """Spend; False once the bucket is overdrawn. `now` in seconds, never decreasing."""
        tokens = self.tokens
        if now > self._at:
            if self._at > -math.inf:
                tokens += (now - self._at) * self._per_second
            self._at = now
        self.tokens = min(tokens, self._capacity) - cost
        return self.tokens >= 0.0


class PingRules:
    """gRPC's rule for pings a server receives: strikes for those that come too soon.

    Sending a frame of headers or data forgives; `forgive` is called for each, so it is cheap.
    """

    __slots__ = ("_max_strikes", "_min_interval", "_permit_without_calls", "last_at", "strikes")

    def __init__(
        self, *, max_strikes: int, min_interval_seconds: float, permit_without_calls: bool
    ) -> None:
        self._max_strikes = max_strikes
        self._min_interval = min_interval_seconds
        self._permit_without_calls = permit_without_calls
        self.last_at = -math.inf
        self.strikes = 0

    def forgive(self) -> None:
        self.last_at = -math.inf
        self.strikes = 0

    def too_many(self, now: float, *, has_calls: bool) -> bool:
        """Record one ping; True if the connection has to end with `too_many_pings`.

        `max_strikes` 0 tolerates everything, as the flag's documentation says.
        """
        interval = self._min_interval
        if not (has_calls or self._permit_without_calls):
            interval = max(interval, IDLE_PING_INTERVAL_SECONDS)
        soon = self.last_at + interval > now
        self.last_at = now
        if soon:
            self.strikes += 1
        return self._max_strikes > 0 and self.strikes > self._max_strikes
