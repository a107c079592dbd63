"""Data sets: where they lie, how to fetch and check them, how to read them."""
