"""Complex-valued weights {1, -1, i, -i} for real models (Fairy2i), and real four-level ones beside them.

The package registers quantizers (`fairy2-w1`, `fairy2-w2`, `levels4`; quantizer.py, four_levels.py) and
nothing else: conversion, training, calibration and checkpoints take them by name.
"""
