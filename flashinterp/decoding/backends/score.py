"""How many tokens the paper's score is relative to. Apart, so that reading a map needs no torch."""

from __future__ import annotations

SCORE_TOKENS = 100
"""A score compares a token with the mean of this many highest probabilities (METHOD 2)."""
