"""Small shared helpers: text, JSON, arrays on disk, whole-file writes, hooks, progress."""
