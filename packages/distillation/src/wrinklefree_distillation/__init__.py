"""Stage 3: the ternary student learns from what a teacher says, not from the text alone."""
