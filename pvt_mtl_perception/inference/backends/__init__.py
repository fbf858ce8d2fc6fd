"""What runs the network: one file an engine, called with a normalised batch and the tasks to compute."""
