"""Benchmarks on data sets, in two stages: maps of photographs are predicted, then scored."""
