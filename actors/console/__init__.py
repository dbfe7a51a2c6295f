"""The web console: what operators see of a running server, and how it comes to be known.

`observer` is the actor that looks once a second, `history` and `slowness` are what it remembers and
concludes, `rows` is the JSON that it makes, `application` the ASGI side, `static` the pages.
"""
