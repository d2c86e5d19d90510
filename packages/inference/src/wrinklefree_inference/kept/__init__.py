"""Servers of other programs, each behind a process that ends it when whoever started it is gone."""
