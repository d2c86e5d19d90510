"""The `wf` command line: becomes the workspace's applications, and keeps records of jobs."""
