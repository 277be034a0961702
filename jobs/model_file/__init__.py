"""Keras model files that may come from anybody: checked whole, then loaded, and nothing they carry is run."""
