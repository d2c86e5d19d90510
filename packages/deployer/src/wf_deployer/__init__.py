"""The `wf` command line: starts the workspace's applications as processes and keeps their records."""
