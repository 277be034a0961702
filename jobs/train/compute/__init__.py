"""The training step: forward, backward, allreduce, update; and the forward pass of validation."""
