"""In the model directory."""

VALUE = "package"
