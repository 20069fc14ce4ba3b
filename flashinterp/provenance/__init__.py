"""Measured values and what is derived from them: stable ids, packed into `raw/`, computed again by `verify`."""
