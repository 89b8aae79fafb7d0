"""Pruners: which weights are zero."""
