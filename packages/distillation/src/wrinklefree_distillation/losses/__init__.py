"""The mathematics of the objectives, on tensors alone."""
