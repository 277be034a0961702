"""The pipeline as Slurm jobs: submit them, run one, follow them."""
