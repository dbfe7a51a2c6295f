"""Checks a model repository without a server; see docs/lint.md."""
