"""One training step: forward, backward, the allreduce and the update."""
