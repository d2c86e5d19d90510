"""Perplexity and lm-eval tasks for checkpoints, exported folders and GGUF files alike."""
