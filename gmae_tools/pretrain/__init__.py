"""Pretraining: objective, schedule and loop."""
