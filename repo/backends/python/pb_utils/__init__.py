"""The two modules that a model imports by their bare names."""
