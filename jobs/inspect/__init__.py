"""Look at archives and at their labels."""
