"""Multi-task driving perception: classification, detection and segmentation from one PVT v2 network."""

__version__ = "0.1.0"
