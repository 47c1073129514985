"""GEMM-shaped kernels in Triton: products with truncated DCT bases on tensor cores. No policy, no registration.

`kernels` is device code, `basis` the matrices it multiplies by, `tiles` the sizes of its tiles (data), `launch` turns
tensors into launches. Nothing is imported from here until a CUDA tensor needs it: Triton is not on every machine.
"""
