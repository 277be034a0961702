"""The fetch stage: find or download the IDX archives of a data set, and check them."""
