"""Which tensors of a state dict are convolution and linear weights, found from names and shapes alone."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .errors import OptionError
from .registry import suggest

WORDS = ("first", "last", "downsample", "none")
_NOT_WEIGHTS = {"norm", "layernorm", "batchnorm", "bn", "ln", "bias", "running", "mask", "mean", "std", "buffer"}
_LOOKED_UP = {"embed", "embedding", "embeddings", "emb", "token", "tokens", "position", "positional", "pos"}
_LOOKED_UP |= {"wte", "wpe"}  # as GPT-2 calls its token and position tables
_SHORTCUTS = {"downsample", "shortcut", "skip"}


@dataclass(frozen=True)
class Targets:
    """Names in the order of the state dict: `names` to compress, `kept` in 16-bit floating point."""

    names: tuple[str, ...]
    kept: tuple[str, ...]


def find(weights: Mapping[str, Tensor], keep_fp: Sequence[str] = ("first", "last")) -> Targets:
    """Split the convolution (3 to 5 axes) and linear (2 axes) weights into those to compress and those to keep.

    Norms, biases, embeddings, buffers and per-channel parameters are neither. `keep_fp` takes "first", "last" (in the
    order of the network), "downsample" (shortcut convolutions), names of tensors or their modules, or "none".
    Raises OptionError for anything else.
    """
    found = [name for name, value in weights.items() if _is_weight(name, value, weights)]
    kept: set[str] = set()
    for word in keep_fp:
        kept.update(_matching(word, found, weights))
    if "none" in keep_fp and len(keep_fp) > 1:
        raise OptionError(f"keep-fp is {','.join(keep_fp)}.", "Give none, or the layers to keep, not both.")
    return Targets(tuple(n for n in found if n not in kept), tuple(n for n in found if n in kept))


def _is_weight(name: str, value: Tensor, weights: Mapping[str, Tensor]) -> bool:
    if not (value.is_floating_point() and 2 <= value.ndim <= 5 and value.numel() > 1):
        return False
    module, _, leaf = name.rpartition(".")
    words = _words(".".join(name.split(".")[-2:]))
    if words & _NOT_WEIGHTS or any(word.endswith("norm") for word in words):
        return False
    if words & _LOOKED_UP and (value.ndim == 2 or "weight" not in leaf):
        return False
    if "weight" not in leaf and value.shape[0] == 1:
        return False  # a per-channel parameter, such as the (1, c, 1, 1) of a layer scale or of a normalisation
    prefix = f"{module}." if module else ""
    bias = weights.get(f"{prefix}bias")
    shaped_bias = bias is not None and bias.shape == value.shape  # elementwise affine parameters
    return f"{prefix}running_mean" not in weights and not shaped_bias


def _words(name: str) -> set[str]:
    """`layers.0.LayerNorm1.pos_embed` -> {layers, layernorm, pos, embed}."""
    return set(re.findall(r"[a-z]+", name.lower()))


def _matching(word: str, found: Sequence[str], weights: Mapping[str, Tensor]) -> Iterable[str]:
    if word == "none":
        return ()
    if word == "downsample":
        return [name for name in found if _words(name) & _SHORTCUTS]
    if word in ("first", "last"):
        first, last = _ends(found, weights)
        return first if word == "first" else last
    names = [name for name in weights if word in (name, name.rpartition(".")[0])]
    if names:
        return names
    raise OptionError(f"keep-fp: there is no tensor {word!r}.", suggest(word, [*WORDS, *found]))


def _ends(found: Sequence[str], weights: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """The first and the last layer of the network, each as a list of one name (or none).

    A state dict has them in order, but a safetensors file sorts its tensors by name. Then numbers are compared as
    numbers, and where names differ in words ("fc" sorts before "layer1") shapes decide: the fewest input channels come
    first, the linear layer with the fewest outputs last.
    """
    if not found:
        return [], []
    if list(found) != sorted(found):
        return [found[0]], [found[-1]]
    ordered = sorted(found, key=_natural)
    if len({re.sub(r"\d+", "0", name) for name in found}) == 1:
        return [ordered[0]], [ordered[-1]]
    linear = [name for name in ordered if weights[name].ndim == 2] or ordered[-1:]
    fewest = min(weights[name].shape[0] for name in linear)
    spatial = [name for name in ordered if weights[name].ndim > 2] or ordered
    return (
        [min(spatial, key=lambda name: weights[name].shape[1])],
        [next(name for name in reversed(linear) if weights[name].shape[0] == fewest)],
    )


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
