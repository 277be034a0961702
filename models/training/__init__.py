"""What trains a model beside its architecture: optimizers, learning-rate schedules, dropout."""
