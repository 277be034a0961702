"""Whether a challenger becomes champion: the checks, the decision and its statistics."""
