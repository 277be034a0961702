"""What `idxtrain doctor` looks at: this machine, its software, and two ranks that add numbers up."""
