"""Adapters for other libraries, each of which an extra of this package installs."""
