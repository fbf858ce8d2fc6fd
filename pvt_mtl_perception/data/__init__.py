"""Labelled images: readers, rendered scenes, transforms, and the mixture a training run draws from."""
