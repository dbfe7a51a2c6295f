"""Beside the model."""

VALUE = "beside"
