"""The command line: one module for each group of commands. Nothing heavy is imported until a command runs."""
