"""Training objectives: what a step minimizes. See manager.py for how they come together."""
