"""Training states on disk: written whole or not at all, and never mixed with another run's."""

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import files
from .errors import TrainingError


def save(path: Path, fingerprint: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replace the state file; `fingerprint` says which run it belongs to. Where its tensors are is not recorded."""
    buffer = io.BytesIO()
    torch.save({"fingerprint": json.dumps(fingerprint, sort_keys=True), **moved(state, torch.device("cpu"))}, buffer)
    files.write(path, buffer.getvalue(), force=True)


def load(path: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The state of the same run, on the CPU; TrainingError where it is broken or belongs to another one."""
    remedy = f"Delete {path} to start anew."
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path}: the training state cannot be read: {error}.", remedy) from None
    saved = json.loads(state.pop("fingerprint"))
    now = json.loads(json.dumps(fingerprint, sort_keys=True))
    if saved != now:
        changed = ", ".join(place.removeprefix("recipe.") for place in _changes(saved, now))
        raise TrainingError(f"{path} belongs to another run: {changed} differs.", remedy)
    return state


def moved(state: Any, device: torch.device) -> Any:
    """A state (dicts and lists of tensors and plain values) with its tensors on a device."""
    if isinstance(state, Mapping):
        return {key: moved(value, device) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(moved(value, device) for value in state)
    return state.to(device) if isinstance(state, Tensor) else state


def _changes(saved: Any, now: Any, place: str = "") -> list[str]:
    if isinstance(saved, dict) and isinstance(now, dict):
        keys = sorted({*saved, *now})
        return [c for k in keys for c in _changes(saved.get(k), now.get(k), f"{place}.{k}" if place else k)]
    return [] if saved == now else [place]
