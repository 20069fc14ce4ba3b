"""Do the neurons that a lens names move their words, more than by mechanics?"""
