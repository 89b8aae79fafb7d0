"""Structured weights: fewer parameters by construction."""
