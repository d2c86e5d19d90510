"""The stages that a model passes, a file each. registry.py finds them; base.py says what one is."""
