"""Thresholds with a guarantee: bounds of a mean, choices along a path of criteria, certificates."""
