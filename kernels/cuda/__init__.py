"""Kernels for NVIDIA GPUs: sources as package data, compiled by NVRTC at first use, launched on torch's stream.

| file        | what it is                                                                                  |
|-------------|---------------------------------------------------------------------------------------------|
| quantize.cu | K5: activations to bytes with one scale a sample                                            |
| small.cu    | K1, K3: few samples; codes of two or four bits, bitmap and missing tiles                    |
| gemm.cu     | K2, K4: many samples, and convolution; wgmma on Hopper, mma.sync elsewhere                  |
| hopper.cu   | K2 with warps that fetch and warps that multiply; when asked for (support.py)               |
| product.cuh | what gemm.cu and hopper.cu share: operands out of words, and the results                    |
| scales.cuh  | scales and zero points of all products                                                      |
| layout.py   | weights in the order in which the tensor cores take them                                    |
| products.py | which kernel, on how large a grid, with which arguments                                     |
| chain.py    | the convolutions of a fused chain, each layer's maximum handed to the next                  |
| compiler.py, machine.py | from source to machine code, and onto the GPU                                   |
| ops.py, network_ops.py, support.py | the ops on CUDA tensors, and whether they run here                   |
"""
