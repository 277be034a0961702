"""Programs that measure the machine, or one part of idxtrain alone."""
