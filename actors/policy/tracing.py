"""Which requests are traced: settings for all models, overlays for single ones, and sampling.

Owns the settings as they are now, how many requests each has seen and how many traces it may still
begin. A setting that is changed is replaced by another one: traces that have begun go on under
that with which they began, and it is over when they are. Texts are Triton's. No clock, no file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from protocol.status import invalid_arg
from protocol.v2_json_control import Clear, TraceUpdate

TRITON: Final = "triton"
OPENTELEMETRY: Final = "opentelemetry"

_FIELDS: Final = ("level", "rate", "count", "log_frequency")


@dataclass(frozen=True, slots=True)
class TraceValues:
    """What a setting says. No `level` is OFF; `count` -1 is no limit."""

    level: tuple[str, ...] = ()
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0


@dataclass(frozen=True, slots=True)
class TraceDefaults:
    """What the command line says; `exporter` holds the settings of the mode opentelemetry."""

    values: TraceValues = field(default_factory=TraceValues)
    mode: str = TRITON
    file: str = ""
    exporter: Mapping[str, str] = field(default_factory=dict)

    def objection(self, values: TraceValues) -> str:
        """Why a setting samples nothing of its own; empty if it does."""
        if not values.level:
            return "tracing is disabled"
        if values.rate == 0:
            return "sample rate must be non-zero"
        if self.mode == TRITON and not self.file:
            return "trace file name is not given"
        return ""


class Collection(NamedTuple):
    """The traces of one setting, for whoever writes them."""

    number: int
    log_frequency: int
    is_limited: bool  # it ends with a certain number of traces


class Close(NamedTuple):
    """No trace is to come from this setting: write what there is of it.

    `to_indexed_file`: because its traces are used up, not because it was replaced.
    """

    number: int
    to_indexed_file: bool


class Setting:
    """One setting in force, or one that still has traces under way."""

    __slots__ = (
        "begun",
        "collection",
        "ended",
        "is_replaced",
        "left",
        "seen",
        "specified",
        "values",
    )

    def __init__(self, number: int, values: TraceValues, specified: frozenset[str]) -> None:
        self.collection = Collection(number, values.log_frequency, values.count > 0)
        self.values = values
        self.specified = specified  # the fields that are its own, not those of a more general one
        self.left = values.count
        self.seen = 0
        self.begun = 0
        self.ended = 0
        self.is_replaced = False

    @property
    def current(self) -> TraceValues:
        """What it says now: the count shrinks."""
        return replace(self.values, count=self.left)

    def closings(self) -> list[Close]:
        """What is to be written now that a trace has ended or the setting was replaced."""
        if self.ended < self.begun:
            return []
        if self.left == 0 and self.begun and not self.is_replaced:
            return [Close(self.collection.number, to_indexed_file=True)]
        return [Close(self.collection.number, to_indexed_file=False)] if self.is_replaced else []


class TracePolicy:
    """See the module's docstring."""

    def __init__(self, defaults: TraceDefaults) -> None:
        self._defaults = defaults
        self._numbers = itertools.count(1)
        self._global = Setting(next(self._numbers), defaults.values, frozenset())
        self._models: dict[str, Setting] = {}  # overlays, at most one per model that there was
        self.is_active = False
        self._judge()

    def of(self, model: str) -> TraceValues:
        """The settings for a model, or for all others if it is empty."""
        return self._setting(model).current

    def sample(self, model: str, *, has_context: bool) -> Setting | None:
        """Whether to trace the request that comes now, and by which setting.

        With `has_context` it belongs to a trace of its client's, which is never left out.
        """
        setting = self._setting(model)
        defaults = self._defaults
        forced = has_context and defaults.mode == OPENTELEMETRY and bool(setting.values.level)
        is_hit = False
        if setting.left and not defaults.objection(setting.values):
            setting.seen += 1
            is_hit = setting.seen % setting.values.rate == 0
        if is_hit and setting.left > 0:
            setting.left -= 1
            if setting.left == 0:
                self._judge()
        if not (is_hit or forced):
            return None
        setting.begun += 1
        return setting

    def ended(self, setting: Setting) -> list[Close]:
        """A trace of the setting is complete."""
        setting.ended += 1
        return setting.closings()

    def update(self, model: str, update: TraceUpdate) -> list[Close]:
        """Change the settings of a model, or of all if it is empty.

        Raises ServerError INVALID_ARG where the result would trace nothing, unless it is OFF.
        """
        if update == TraceUpdate():
            return []
        base = self._defaults.values if not model else self._global.current
        current = self._models.get(model) if model else self._global
        values, specified = _derive(base, current, update)
        objection = self._defaults.objection(values)
        if objection and values.level:
            raise invalid_arg(f"Attempting to set invalid trace setting :{objection}")
        closings = []
        if model:
            closings += self._put(model, values, specified)
        else:
            closings += self._replace_global(values, specified)
        self._judge()
        return closings

    def _setting(self, model: str) -> Setting:
        return self._models.get(model, self._global)

    def _put(self, model: str, values: TraceValues, specified: frozenset[str]) -> list[Close]:
        """Give the model an overlay, or none if nothing is left of it."""
        old = self._models.pop(model, None)
        if specified:
            self._models[model] = Setting(next(self._numbers), values, specified)
        return _retire(old)

    def _replace_global(self, values: TraceValues, specified: frozenset[str]) -> list[Close]:
        old, self._global = self._global, Setting(next(self._numbers), values, specified)
        closings = _retire(old)
        for model, overlay in list(self._models.items()):
            values, _ = _derive(self._global.current, overlay, TraceUpdate())
            if values != overlay.current:
                closings += self._put(model, values, overlay.specified)
        return closings

    def _judge(self) -> None:
        """Whether any request could be traced: all that the way of an untraced one looks at."""
        self.is_active = any(self._may_trace(one) for one in self._every())

    def _may_trace(self, setting: Setting) -> bool:
        if self._defaults.mode == OPENTELEMETRY:
            return bool(setting.values.level)  # a client may bring its own trace
        return setting.left != 0 and not self._defaults.objection(setting.values)

    def _every(self) -> Iterable[Setting]:
        return (self._global, *self._models.values())


def _retire(setting: Setting | None) -> list[Close]:
    if setting is None:
        return []
    setting.is_replaced = True
    return setting.closings()


def _derive(
    base: TraceValues, current: Setting | None, update: TraceUpdate
) -> tuple[TraceValues, frozenset[str]]:
    """The values of a setting once updated, and which of them are its own."""
    wanted = {name: getattr(update, name) for name in _FIELDS}
    specified = frozenset(
        name
        for name in _FIELDS
        if wanted[name] is not Clear.CLEAR
        and (wanted[name] is not None or (current is not None and name in current.specified))
    )
    own = current.current if current is not None else base
    chosen = {
        name: wanted[name] if wanted[name] is not None else getattr(own, name) for name in specified
    }
    return replace(base, **chosen), specified
