"""Exporters: files that other tools read, verified before they take their name."""
