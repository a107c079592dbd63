"""Metrics on plain arrays; nothing here knows of Gaussians or models."""
