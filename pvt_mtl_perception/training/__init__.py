"""Losses, assignment and the training loop."""
