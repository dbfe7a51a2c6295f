"""What stands beside the street of a model that asks for it: cache, order of replies, limiter."""
