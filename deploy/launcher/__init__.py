"""The launcher: start the ranks of a training, watch them, and restart them when one is lost."""
