"""Serve a trained model over HTTP: batches, limits, metrics, and the champion as it changes."""
