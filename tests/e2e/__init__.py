"""The whole pipeline, as a person runs it."""
