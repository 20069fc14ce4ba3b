"""The colours of all figures."""

from __future__ import annotations

# Okabe and Ito's colours, which colour-blind readers can tell apart, and greys. The report maps
# each to a variable of its page, so an inlined figure follows it into dark mode; a file is white.
PAPER, INK, MUTED, SHADE = "#ffffff", "#1b1f24", "#59636e", "#e4e9ef"
BLUE, VERMILION, SKY, ORANGE = "#0072b2", "#d55e00", "#8cc0e0", "#f3c98b"
