"""Is the instrument itself right: the decode, the clamp, the measured numbers?"""
