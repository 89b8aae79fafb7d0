"""What training says of itself while it runs."""

from io import StringIO

import pytest
from rich.console import Console

from robustq.cli.progress import Bars, duration


def test_an_epoch_is_one_line_with_all_figures() -> None:
    text = StringIO()
    bars = Bars(Console(file=text, width=200))
    event = {"kind": "epoch", "epoch": 2, "total_epochs": 5, "loss": 1.25, "clean": {"value": 0.5}}
    bars.on_event({**event, "robust": {"value": 0.25}, "sparsity": 0.9, "seconds_left": 750.0})
    bars.on_event({**event, "robust": None})
    first, second = text.getvalue().splitlines()
    assert first == "epoch 2/5: loss 1.250, clean 50.0%, robust 25.0%, zeros 90.0%, 12 min left"
    assert second == "epoch 2/5: loss 1.250, clean 50.0%"


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (89.0, "89 s"), (150.0, "2 min"), (11_100.0, "3 h 5 min")])
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said
