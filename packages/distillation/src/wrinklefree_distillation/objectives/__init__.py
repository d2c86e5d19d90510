"""Objectives of stages 3 and 4, one file each."""
