"""What runs, and in which order. Nothing heavy is imported here: it is safe on a login node."""
