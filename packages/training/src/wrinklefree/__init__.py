"""Quantization-aware training of ternary language models: stages 1, 1.9 and 2."""
