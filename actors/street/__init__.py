"""The way of an inference: into a door, through a scheduler and an instance, to an executor."""
