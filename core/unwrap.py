"""From what a checkpoint file holds to one flat state dict, saying what was taken off and left out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputFileError, WeightError

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "ema",
    "ema_state_dict",
    "model_ema",
    "state_dict_ema",
    "shadow",
)
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
MAX_DEPTH = 8
MAX_VIRTUAL = 2**26  # bytes a tensor may have without as many bytes stored (a repeated view)


def unwrap(found: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Whatever was unpickled -> ({name: tensor}, notes of what was unwrapped or left out).

    Takes item 0 of a list, the entry of a known wrapper, and prefixes that every name has. Raises InputFileError
    where there is no state dict in it.
    """
    notes: list[str] = []
    for _ in range(MAX_DEPTH):
        inside = _step(found, notes)
        if inside is None:
            break
        found = inside
    if not isinstance(found, Mapping):
        raise InputFileError(_describe(found), "Save model.state_dict(), or a dict with one under 'state_dict'.")
    weights = {str(name): value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        inside = ", ".join(str(name) for name in list(found)[:10]) or "nothing"
        raise InputFileError(f"there are no tensors in it (it holds: {inside}).", "Save model.state_dict().")
    _note_rest(found, weights, notes)
    return _strip(weights, notes), notes


def check_stored(weights: Mapping[str, Tensor]) -> None:
    """Raise InputFileError, naming the tensor, for what is not a plain dense tensor with all its data."""
    for name, value in weights.items():
        kind = value.layout if value.layout != torch.strided else value.dtype if value.is_quantized else value.device
        if str(kind) != "cpu":
            raise InputFileError(
                f"tensor {name!r} is {str(kind).removeprefix('torch.')}, which robustq does not read.",
                "Save it as a plain dense tensor.",
            )
        size, stored = value.numel() * value.element_size(), value.untyped_storage().nbytes()
        if size > max(MAX_VIRTUAL, stored):
            raise InputFileError(f"tensor {name!r} declares {size} bytes, but {stored} are stored.")


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise WeightError, naming the tensor, if a floating tensor holds NaN or Inf."""
    for name, value in weights.items():
        if not value.is_floating_point() or value.numel() == 0:
            continue
        wide = value.float() if value.element_size() < 2 else value  # float8 knows no isfinite
        bad = int((~torch.isfinite(wide)).sum())
        if bad:
            nan = int(torch.isnan(wide).sum())
            raise WeightError(
                f"tensor {name!r} holds {nan} NaN and {bad - nan} infinite values of {value.numel()}.",
                "The training that made it diverged; use an earlier checkpoint.",
            )


def untie(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """({name: contiguous tensor with storage of its own}, {tied name: name that holds the data})."""
    own: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, value in weights.items():
        storage = value.untyped_storage()
        key = (storage.data_ptr(), value.storage_offset(), tuple(value.shape), value.stride(), value.dtype)
        if value.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        whole = value.is_contiguous() and storage.nbytes() == value.numel() * value.element_size()
        own[name] = value if whole else value.contiguous().clone()
    return own, aliases


def _step(found: Any, notes: list[str]) -> Any:
    """What is inside one wrapper, or None where there is none."""
    if isinstance(found, nn.Module):
        notes.append(f"state dict of the pickled {type(found).__name__}")
        return found.state_dict()
    if isinstance(found, (list, tuple)) and found:
        if isinstance(found[0], (Mapping, list, tuple, nn.Module)):
            notes.append(f"item 0 of a list of {len(found)}")
            return found[0]
        return None
    if not isinstance(found, Mapping):
        return None
    entries = {str(key): value for key, value in found.items() if not isinstance(value, Tensor)}
    chosen = next((name for name in WRAPPERS if _holds(entries.get(name), 3)), None)
    if chosen is None:
        states = [name for name, value in entries.items() if _holds(value, 1)]  # an optimizer's tensors lie deeper
        if not states or len(entries) < len(found):
            return None
        if len(states) > 1:
            several = ", ".join(states[:8])
            raise InputFileError(f"it holds {len(states)} sets of tensors: {several}.", "Save the one you want alone.")
        chosen = states[0]
    notes.append(f"entry {chosen!r}")
    _note_rest(found, {chosen: None}, notes)
    return entries[chosen]


def _holds(value: Any, depth: int, seen: frozenset[int] = frozenset()) -> bool:
    """Whether there is a module, or a tensor at most `depth` tables down; of a list the first item counts."""
    if id(value) in seen:
        return False
    seen = seen | {id(value)}
    if isinstance(value, (list, tuple)) and value:
        return _holds(value[0], depth, seen)
    if isinstance(value, Mapping) and depth > 0:
        return any(isinstance(item, Tensor) or _holds(item, depth - 1, seen) for item in value.values())
    return isinstance(value, nn.Module)


def _note_rest(found: Mapping[Any, Any], taken: Mapping[str, Any], notes: list[str]) -> None:
    rest = [str(name) for name in found if str(name) not in taken]
    if rest:
        shown = ", ".join(rest[:8]) + (f" and {len(rest) - 8} more" if len(rest) > 8 else "")
        notes.append(f"left out: {shown}")


def _strip(weights: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    changed = True
    while changed:
        changed = False
        for prefix in PREFIXES:
            if all(name.startswith(prefix) and len(name) > len(prefix) for name in weights):
                weights = {name[len(prefix) :]: value for name, value in weights.items()}
                notes.append(f"prefix {prefix!r}")
                changed = True
    return weights


def _describe(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"it holds one tensor of shape {tuple(found.shape)}, not a state dict."
    size = f" of {len(found)}" if isinstance(found, (list, tuple)) else ""
    return f"it holds a {type(found).__name__}{size}, not a state dict."
