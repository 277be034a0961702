"""Benchmarks: speed as ratios against peers, on one machine in one run. `make bench` prints the table."""
