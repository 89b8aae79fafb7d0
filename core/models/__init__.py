"""Architectures that robustq can build and recognise from a state dict."""
