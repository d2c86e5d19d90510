"""Teachers: where the answers come from that objectives compare with. base.py says what one is."""
