"""One module per sub-command; light imports only (see main.py)."""
