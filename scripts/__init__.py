"""PHANES: pseudo-healthy generative networks for anomaly detection in T1w brain MRI, as a MONAI Bundle."""

__version__ = "0.1.0"
