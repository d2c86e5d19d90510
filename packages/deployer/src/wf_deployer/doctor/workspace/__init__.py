"""A checkout of this repository, and the checks of it: one module for each area."""
