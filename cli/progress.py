"""Progress bars from core's events, on a terminal."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .tables import percent

PATIENCE = 1.0  # seconds without a bar: short work shows none


class Bars:
    """One bar a task; an event is {"kind": "step", "step", "total", ...} with an optional "task" and "loss"."""

    def __init__(self, target: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bars = Progress(*columns, console=target, transient=True)
        self.tasks: dict[str, TaskID] = {}
        self.begun = time.monotonic()
        self.shown = False

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *reason: object) -> None:
        if self.shown:
            self.bars.stop()

    def on_event(self, event: dict[str, Any]) -> None:
        if event.get("kind") == "epoch":
            self.epoch(event)
        if event.get("kind") != "step" or time.monotonic() - self.begun < PATIENCE:
            return
        if not self.shown:
            self.bars.start()
            self.shown = True
        name = str(event.get("task", "training"))
        if name not in self.tasks:
            for done in self.tasks.values():
                self.bars.remove_task(done)
            self.tasks = {name: self.bars.add_task(name, total=event["total"])}
        label = name
        if "loss" in event:
            label = f"epoch {event['epoch']}/{event['total_epochs']} loss {event['loss']:.3f}"
        self.bars.update(self.tasks[name], completed=event["step"], description=label)

    def epoch(self, event: dict[str, Any]) -> None:
        """One line that stays, for each finished epoch."""
        line = f"epoch {event['epoch']}/{event['total_epochs']}: loss {event['loss']:.3f}"
        for name in ("clean", "robust"):
            if found := event.get(name):
                line += f", {name} {percent(found['value'])}"
        if event.get("sparsity"):
            line += f", zeros {percent(event['sparsity'])}"
        if left := event.get("seconds_left"):
            line += f", {duration(left)} left"
        self.bars.console.print(line)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
