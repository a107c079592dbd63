"""The parts of the reliability campaign (`make reliability`)."""
