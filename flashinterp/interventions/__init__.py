"""Changing a running model: clamps, dose response, steering, attribution, export."""
