"""The documentation that is generated from the code is what the code says."""

import subprocess
import sys
from pathlib import Path

import pytest

GENERATE = Path(__file__).parents[2] / "docs" / "generate.py"


@pytest.mark.skipif(not GENERATE.is_file(), reason="the documentation is not here")
def test_generated_documents_are_fresh() -> None:
    found = subprocess.run(
        [sys.executable, str(GENERATE), "--check"], check=False, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, f"run python docs/generate.py ({found.stdout}{found.stderr})"
