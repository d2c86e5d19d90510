"""Checkpoint folders without pickle: contents, manifest, retention, Lightning plug-in."""
