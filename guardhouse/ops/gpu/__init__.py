"""Triton kernels behind `ops/cuda.py`, one file per operation: device code and its launch, nothing else.

Knows: tensors, strides, tiles.
Never knows: weights' names, requests, which device it is (Triton's interpreter runs the same code on the CPU).
"""
