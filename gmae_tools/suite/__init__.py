"""Scripted benchmarks, run one after the other and resumed, and the page of their results."""
