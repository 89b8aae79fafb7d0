"""Training objectives: the loss of one batch, the inner attack included."""
