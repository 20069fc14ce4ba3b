"""Compares a run with an earlier one: which neurons kept, moved or lost their words."""
