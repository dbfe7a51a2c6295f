"""What the operator asked for: command line, files, environment; frozen before the wiring."""
