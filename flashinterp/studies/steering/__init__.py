"""Does a clamped model talk of its concept, at which dose, and at what cost?"""
