"""Timings that need a machine of their own; none of them runs in the tests."""
