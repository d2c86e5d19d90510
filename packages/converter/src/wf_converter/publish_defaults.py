"""What `wf publish` and `wf export --push-to-hub` take where nothing is said."""

REVISION = "main"
COMMIT_MESSAGE = "Add a quantized model"
