"""Another repository: what it declares, read without running its code, and the risks of that."""
