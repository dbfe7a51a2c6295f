"""Frontends in processes of their own: connections and codecs there, everything else in the core.

`uplink` is the frontend's side of the conversation and `core_link` the core's; `link_end`, `pipe`
and `records` are how they talk, `snapshot` is what a frontend knows, `control` what it asks.
"""
