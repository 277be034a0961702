"""Label suspects by out-of-fold predictions."""
