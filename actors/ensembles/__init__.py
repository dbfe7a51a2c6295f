"""Models made of models: an actor in a scheduler's place, and who belongs to whom."""
