"""What `robustq.core` offers, and that importing it is cheap."""

import subprocess
import sys

import robustq.core


def test_every_public_name_is_there_and_documented() -> None:
    for name in robustq.core.__all__:
        assert getattr(robustq.core, name).__doc__, name
    assert set(robustq.core.__all__) == set(robustq.core._PLACES)
    assert set(robustq.core.__all__) <= set(dir(robustq.core))
    assert not hasattr(robustq.core, "nothing")


def test_importing_does_not_import_torch() -> None:
    code = "import sys, robustq.core, robustq.core.recipe; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
