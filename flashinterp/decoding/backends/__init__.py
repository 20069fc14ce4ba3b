"""The ways to compute a decode: plain torch, CPU bfloat16, CUDA, Triton kernels."""
