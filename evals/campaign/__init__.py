"""The parts of the reliability campaign (`evals/reliability.py`)."""
