"""A retraining at set times: the text that cron, systemd or Slurm is given for it. Only `install` changes anything."""
