"""The runs made so far: listed, shown, compared, measured and removed. See `idxtrain runs`."""
