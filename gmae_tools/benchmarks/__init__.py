"""Benchmarks on data sets: maps of photographs are predicted, then scored."""
