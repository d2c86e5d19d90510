"""Checkpoints in a store (wf_stores): where a run's are, sending them while it trains, starting from one."""
