"""A sweep: the same recipe at every point of a grid."""
