"""Metrics of plain arrays, independent of Gaussians and models."""
