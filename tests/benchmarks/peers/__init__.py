"""What idxtrain is measured against: short scripts, each written from the public description of its peer."""
