"""Machines of clouds, Kubernetes and Slurm clusters, by SkyPilot, in an environment of its own."""
