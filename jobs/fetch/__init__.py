"""The fetch stage: find the four IDX archives of a data set and check them."""
