"""The checks of `idxtrain doctor`: this machine, its software, and an allreduce of two ranks."""
