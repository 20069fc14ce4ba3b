"""Which words neurons name, and how strongly they write single tokens."""
