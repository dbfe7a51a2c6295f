"""Which models are served: looking for them, loading, versions, instances, and the index of all."""
