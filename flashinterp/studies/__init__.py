"""One package per family of evals: its science, records, tables and figures together."""
