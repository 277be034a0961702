"""Jobs on a Slurm cluster: sites, batch scripts, launch commands, and the ranks of a training under one srun."""
