"""Evaluations of the toolkit, to be run in a clone as `python -m evals.benchmarks.<name>`."""
