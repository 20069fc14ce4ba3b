"""The run folder on disk: files, schema, environment."""
