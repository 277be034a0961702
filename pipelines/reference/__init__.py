"""The reference: config and site keys, environment variables, exit codes and files, as data, text and pages."""
