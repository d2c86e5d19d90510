"""Teachers that are not in this process, one file each."""
