"""Where jobs run: a module for each back end, behind the protocol of `base`, listed in `registry`."""
