"""Background jobs: records in `<workspace>/runs/<id>/`, a supervisor process, listing and cancelling."""
