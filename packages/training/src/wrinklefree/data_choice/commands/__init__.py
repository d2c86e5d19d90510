"""The sub-commands of `wf data`, a file each."""
