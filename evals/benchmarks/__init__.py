"""Benchmarks that the documentation quotes."""
