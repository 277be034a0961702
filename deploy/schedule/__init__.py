"""Scheduled retraining: texts for cron, systemd and Slurm. Only `install` changes anything."""
