"""Use a trained model on images that nobody labeled: what `idxtrain predict`, `serve` and `demo` share."""
