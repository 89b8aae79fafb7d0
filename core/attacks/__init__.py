"""Attacks: each an initial state and a step on per-sample tensors; `robustq.core.evaluation` drives them."""
