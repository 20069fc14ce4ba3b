"""Triton kernels for the hot path on a CUDA device; nothing here is imported until it is used.

``select`` takes the best tokens of both poles from a block of logits (METHOD section 2), ``compile`` builds
every kernel for a named architecture on a machine without a GPU. Importing ``flashinterp`` needs no Triton.
"""
