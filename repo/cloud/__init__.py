"""Model repositories in object storage: where they are, who may read them, and local copies."""
