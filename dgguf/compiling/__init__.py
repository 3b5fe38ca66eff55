"""Compiles the kernels that will be needed before they are, on all cores: see docs/kernels.md."""
