"""The stages of the pipeline: one folder and one process per stage, with files between them."""
