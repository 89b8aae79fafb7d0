"""`python -m robustq.cli`."""

from .main import main

main()
