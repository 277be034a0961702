"""The stages of the pipeline: one stage a folder, one process a stage, files between them."""
