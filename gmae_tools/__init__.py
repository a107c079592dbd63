"""Gaussian masked autoencoders: pretrain them, and see what their 3-D Gaussians say about a photograph.

Importing this package loads nothing heavy; import what you need from its modules.
"""

__version__ = "0.1.0"
