"""Programs that measure one part of idxtrain alone, or the machine."""
