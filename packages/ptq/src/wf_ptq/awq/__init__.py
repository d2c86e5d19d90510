"""Activation-aware weight quantization: scales of inputs and ranges of weights chosen on text."""
