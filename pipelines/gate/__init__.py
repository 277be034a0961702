"""The gate: the checks that decide whether a challenger becomes champion, and their statistics."""
