"""The peers of the benchmarks: short scripts, each written from the public description of its peer."""
