"""`wf`'s own commands, a module for each, and the table of applications; light imports only (see main.py)."""
