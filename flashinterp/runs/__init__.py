"""One run of the evals: its session, its folder, its verification and comparison."""
