"""The command line: one module per group of commands. Nothing heavy is imported until a command runs."""
