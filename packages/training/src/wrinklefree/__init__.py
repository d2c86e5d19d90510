"""Quantization-aware training of ternary language models, in stages (stages/)."""
