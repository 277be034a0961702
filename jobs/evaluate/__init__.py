"""The evaluate stage: every test image exactly once, the figures and the report."""
