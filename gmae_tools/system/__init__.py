"""Files, processes and other parts of the operating system, independent of pictures."""
