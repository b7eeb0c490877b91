"""Small checkpoint folders of every family with random weights, for tests and for training."""
