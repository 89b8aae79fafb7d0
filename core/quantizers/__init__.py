"""Quantizers: low-bit codes times a scale."""
