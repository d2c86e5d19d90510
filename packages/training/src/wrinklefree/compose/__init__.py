"""From files and command-line overrides to one typed `TrainConfig`, with precise errors. No PyTorch."""
