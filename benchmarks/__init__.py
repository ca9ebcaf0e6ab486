"""Speed, measured in the open. Run as modules from the root: `python -m benchmarks.kernels`."""
