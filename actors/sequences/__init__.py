"""Models with state: the batcher that gives each sequence a slot, and its instances."""
