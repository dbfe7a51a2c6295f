"""Devices behind one port: memory, streams, events and copies, real ones and stand-ins.

`port` says what a device can do; `cpu`, `cuda` and `fake` do it; `table` says which GPUs there are.
"""
