"""Models on disk: our own checkpoints, read and resolved."""
