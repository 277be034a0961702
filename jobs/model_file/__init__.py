"""Load Keras model files from any source: check the whole file first, and run nothing that it contains."""
