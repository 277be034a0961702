"""The parts of training that any architecture shares: optimizers, schedules, augmentation, dropout, EMA, export."""
