"""From a claim to its verdict: claims, prompts, controls, measurements, the rule."""
