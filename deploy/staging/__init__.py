"""Copies on a node's own disk of what its processes read: the Python environment and the shards."""
