"""`wf data`: which text a model should train on.

main and commands are the command line; scoring ranks documents by influence, proxies tries mixtures on small
models. Files, duplicates, choices and the regression are data_handler.corpus.
"""
