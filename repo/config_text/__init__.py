"""Configuration files as people write them: text format, JSON and YAML, and where each word is."""
