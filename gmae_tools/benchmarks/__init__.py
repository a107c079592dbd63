"""Scripted benchmarks: what they are, and runs of them that can be killed at any time and called again."""
