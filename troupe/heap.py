"""When Python looks for garbage in a server: seldom, and not among what was loaded.

Owns the thresholds; whoever runs an event loop settles its heap once it serves.
"""

from __future__ import annotations

import gc
from typing import Final

# How many objects may come to be, net of those that have gone, before the youngest are searched for
# cycles, and how many such searches go before the older ones are searched. A request makes some
# thirty objects and no cycle, and requests in flight were enough to set off a search of everything
# several times a second. Cycles are made by connections and control calls that end, of which these
# numbers let a few pile up.
GC_THRESHOLDS: Final = (10_000, 20, 50)


def settle_heap() -> None:
    """What has been loaded stays: searches for garbage need not look at it any more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
