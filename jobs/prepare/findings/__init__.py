"""What is odd about the images and labels of a dataset: duplicates, blank images, outliers, rare classes."""
