"""Evaluation of encoders: frozen features, probes, fine-tuning, and invariance to occlusion."""
