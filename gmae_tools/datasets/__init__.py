"""Data sets: finding, fetching, checking and reading them."""
