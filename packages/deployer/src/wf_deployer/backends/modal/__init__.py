"""Jobs on Modal: a generated app for each, spoken to by a program in an environment of its own."""
