"""`wf doctor`: what of a checkout, its environment and this machine is in order, and what mends the rest."""
