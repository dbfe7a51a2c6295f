"""The REST port: a connection's life, what it is asked, and how replies come back to it."""
