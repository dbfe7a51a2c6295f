"""The operator's port: metrics, console and API page, and the map of what they look at."""
