"""A recipe at every point of a grid of options."""
