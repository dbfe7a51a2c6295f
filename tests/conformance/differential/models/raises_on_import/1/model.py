"""Does not load."""

raise RuntimeError("cannot be imported")
