"""Jobs of this machine: a record in `<workspace>/runs/<id>/` and a supervisor process for each."""
