"""Checks a finished run folder without its model."""
