"""Retraining: a challenger from new data, the gate, and the champion in the model registry."""
