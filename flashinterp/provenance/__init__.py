"""Where a run's tables and figures come from: lasting ids of functions and of records."""
