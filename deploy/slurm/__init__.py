"""Jobs of a Slurm cluster: sites, batch scripts, launchers, and the ranks of a training as one srun."""
