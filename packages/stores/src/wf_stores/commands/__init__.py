"""The sub-commands of `wf store`, one a file."""
