"""Pretraining: objectives, samples, schedule and loop."""
