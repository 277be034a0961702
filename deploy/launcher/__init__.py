"""Start the ranks of a training, watch them, and start them again when one is lost."""
