"""GEMM-shaped kernels in Triton: products with truncated DCT bases on tensor cores. No policy, no registration.

`kernels` is device code, `basis` the matrices it multiplies by, `tiles` the sizes of its tiles (data), `launch` turns
tensors into launches. Triton is not on every machine: but for `moments`, which needs none, nothing is imported from
here until a CUDA tensor needs it.
"""
