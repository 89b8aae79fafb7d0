"""Data sets by name or by path: `load` finds the loader, the loaders only read their format."""
