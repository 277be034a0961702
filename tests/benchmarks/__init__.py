"""Benchmarks: speed as ratios against peers on the same machine in the same run. `make bench` prints the table."""
