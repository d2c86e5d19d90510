"""Jobs of a Slurm cluster: `sbatch` on a login node, the same file system on all nodes."""
