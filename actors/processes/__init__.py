"""Python models in worker processes: the executor, the link, and what models ask for meanwhile."""
