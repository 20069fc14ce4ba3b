"""The figures that several studies draw, as SVG with their points."""
