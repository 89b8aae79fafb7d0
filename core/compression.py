"""Data-free compression of a checkpoint, tensor by tensor; its class is not needed.

Methods are applied in the order given, each to the dense result of the one before; the last one that takes a tensor
says how it is stored. Pruning comes first and its zeros stay zeros; nothing can follow a quantizer.
"""

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from torch import Tensor

from . import registry, targets
from .checkpoint import Checkpoint, Source
from .errors import NothingCompressedError, OptionError
from .packed import Circulant, Factored, Half, Packed, Quantized, half_float
from .recipe import Spec
from .session import Compressor
from .structures.circulant import project
from .unwrap import check_finite


@dataclass(frozen=True)
class Compressed:
    """What `compress` made.

    layers one dict a convolution or linear weight, in the order of the state dict: name, shape, scheme, bits (of a
           stored code or value), relative_error ||w - u|| / ||w||, zeros, energy (circulant only: retained share)
    """

    checkpoint: Checkpoint
    layers: list[dict[str, Any]]
    warnings: list[str]


def compress(
    checkpoint: Checkpoint, methods: Sequence[Spec], *, keep_fp: Sequence[str] = ("first", "last")
) -> Compressed:
    """Compress without data.

    Raises OptionError (options, order of methods, a method that must train, a file that is quantized already),
    WeightError (NaN or Inf) and NothingCompressedError (no tensor to compress).
    """
    compressors = [registry.create(spec.name, spec.options, *registry.COMPRESSORS) for spec in methods]
    earlier = _earlier(checkpoint)
    _check(checkpoint, methods, compressors, earlier)
    dense = {name: value for name, value in checkpoint.dense().items() if name not in checkpoint.aliases}
    check_finite(dense)
    chosen = targets.find(dense, keep_fp)
    original = {name: dense[name].detach().float() for name in dense if name in {*chosen.names, *chosen.kept}}
    packed = _apply(compressors, {name: original[name] for name in chosen.names})
    if not packed:
        raise _nothing(dense, chosen, methods)
    everything = {name: packed.get(name, Half(half_float(w))) for name, w in original.items()}
    done = [{"name": spec.name, **c.options()} for spec, c in zip(methods, compressors, strict=True)]
    meta = {
        **checkpoint.meta,
        "methods": [*earlier, *done],
        "keep_fp": list(keep_fp),
        "parent": parent(checkpoint),
        "tool": f"robustq {version('robustq')}",
    }
    rest = {name: value for name, value in checkpoint.weights.items() if name not in everything}
    layers = [layer(name, original[name], tensor) for name, tensor in everything.items()]
    return Compressed(
        # No longer the file it came from: sizes and hashes of that file do not describe it.
        replace(checkpoint, weights=rest, packed=everything, meta=meta, source=_in_memory(checkpoint.source)),
        layers,
        _warnings(checkpoint.source.path, done, layers, [n for n in chosen.names if n not in packed]),
    )


def _apply(compressors: Sequence[Compressor], weights: Mapping[str, Tensor]) -> dict[str, Packed]:
    current, packed = dict(weights), {}
    for compressor in compressors:
        packed |= compressor.project(current)
        current |= {name: tensor.dense() for name, tensor in packed.items()}
    return packed


def _earlier(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The methods that made a file whose packed tensors are still there."""
    return list(checkpoint.meta.get("methods", ())) if checkpoint.packed else []


def _check(
    checkpoint: Checkpoint,
    methods: Sequence[Spec],
    compressors: Sequence[Compressor],
    earlier: Sequence[Mapping[str, Any]],
) -> None:
    """Refuse what cannot be done without data, what is compressed for good, and orders that undo an earlier method."""
    if not methods:
        raise OptionError("no compression method is given.", "Give --bits, --sparsity, --block-size or --method.")
    for tensor in checkpoint.packed.values():
        if isinstance(tensor, (Quantized, Circulant, Factored)):
            parent = checkpoint.meta.get("parent") or {}
            raise OptionError(
                f"{checkpoint.source.path} is compressed already ({_named(earlier)}).",
                f"Compress the model it was made from{': ' + parent['name'] if parent.get('name') else ''}.",
            )
    for spec, compressor in zip(methods, compressors, strict=True):
        if type(compressor).project is Compressor.project:
            raise OptionError(
                f"{spec.name} trains, so it needs data and the model's class.",
                f"Run: {_training(checkpoint.source.path, {**spec.options, 'name': spec.name})}",
            )
    _check_order([*(str(method.get("name")) for method in earlier), *(spec.name for spec in methods)])
    if any(name in registry.TABLE["pruner"] for name in (*(s.name for s in methods), *(m["name"] for m in earlier))):
        for spec, compressor in zip(methods, compressors, strict=True):
            if compressor.options().get("bits") == 1:
                raise OptionError(
                    f"{spec.name} with bits=1 after pruning would fill the zeros: binary weights are -1 or +1 times "
                    "a scale.",
                    "Use bits=2 (ternary), or do not prune.",
                )


def _check_order(names: Sequence[str]) -> None:
    kinds = {name: kind for kind in registry.COMPRESSORS for name in registry.TABLE[kind]}
    for before, after in itertools.pairwise(names):
        pair = (kinds.get(before, ""), kinds.get(after, ""))
        if "structure" in pair:
            problem = f"{before} and {after} cannot be combined: the one would undo the other."
            raise OptionError(problem, "Give one of them.")
        if pair == ("quantizer", "pruner"):
            raise OptionError(
                f"{after} after {before} would store floating-point weights again.", f"Put {after} before {before}."
            )
        if pair == ("quantizer", "quantizer"):
            raise OptionError(f"{before} and {after} both quantize.", "Give one of them.")


def _nothing(dense: Mapping[str, Tensor], chosen: targets.Targets, methods: Sequence[Spec]) -> NothingCompressedError:
    if chosen.names:
        return NothingCompressedError(
            f"nothing was compressed: {', '.join(chosen.names)} {_is(chosen.names)} too small for "
            f"{_named([spec.to_dict() for spec in methods])}.",
            "Give a smaller block, or --keep-fp none if larger layers are kept.",
        )
    if chosen.kept:
        return NothingCompressedError(
            f"nothing was compressed: keep-fp keeps all there is ({', '.join(chosen.kept)}).",
            "Give --keep-fp none, or name fewer layers.",
        )
    return NothingCompressedError(
        f"nothing was compressed: none of the {len(dense)} tensors is a convolution or linear weight "
        f"(they are: {', '.join(list(dense)[:8])}{', ...' if len(dense) > 8 else ''}).",
        "`robustq inspect FILE` lists what is in the file.",
    )


def layer(name: str, w: Tensor, tensor: Packed) -> dict[str, Any]:
    """The entry of one layer in the report: w float32, the weight before, and what became of it."""
    norm = float(w.double().norm())
    error = float((w.double() - tensor.dense().double()).norm())
    entry: dict[str, Any] = {
        "name": name,
        "shape": list(tensor.shape),
        "scheme": tensor.scheme,
        "bits": _bits(tensor),
        "relative_error": error / norm if norm else 0.0,
        "zeros": tensor.zeros,
    }
    if isinstance(tensor, Circulant):
        entry["energy"] = project(w, tensor.vectors.shape[-1])[1]
    return entry


def _bits(tensor: Packed) -> int:
    """Bits of one stored code (as in --bits) or floating-point value."""
    if isinstance(tensor, Quantized):
        return 1 if tensor.binary else tensor.levels.bit_length() + 1
    if isinstance(tensor, Factored):
        return tensor.bits
    values = tensor.vectors if isinstance(tensor, Circulant) else getattr(tensor, "values")  # noqa: B009
    return 8 * values.element_size()


def parent(checkpoint: Checkpoint) -> dict[str, Any]:
    """The file that a model made from this one has as its parent: the first of a chain."""
    of = checkpoint.source
    return checkpoint.meta.get("parent") or {"sha256": of.sha256, "name": PurePath(of.path).name, "bytes": of.bytes}


def _in_memory(source: Source) -> Source:
    return Source(source.path, "memory", "", 0, source.notes)


def _warnings(
    path: str, done: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]], skipped: Sequence[str]
) -> list[str]:
    found = []
    for method in done:
        if method.get("bits") in (1, 2):
            kind = {1: "binary", 2: "ternary"}[method["bits"]]
            found.append(
                f"{kind} weights without training probably lose the model's accuracy (a CIFAR-10 ResNet-20 made "
                "ternary falls from 91.7% to about 18%). Recover it with: "
                + _training(path, {**method, "name": "binary-relax"})
            )
        if method.get("block", 0) >= 4:
            found.append(
                f"circulant blocks of {method['block']} without training probably lose the model's accuracy (weights "
                f"without structure keep 1/{method['block']} of their energy). Recover it with: "
                + _training(path, method)
            )
    if skipped:
        found.append(f"too small for {_named(done)}, kept in fp16: {', '.join(skipped)}.")
    empty = [layer["name"] for layer in layers if layer["zeros"] >= math.prod(layer["shape"])]
    if empty:
        found.append(f"all weights are zero now in {', '.join(empty)}: nothing passes through.")
    return found


def _training(path: str, method: Mapping[str, Any]) -> str:
    """The command that trains with a method, as it can be typed."""
    model = "MODEL" if path == "-" else shlex.quote(path)
    if method["name"] not in registry.TABLE["quantizer"]:
        given = ",".join(f"{key}={value}" for key, value in method.items() if key != "name")
        return f"robustq train --init {model} --compress {method['name']}:{given} --data NAME --epochs 3"
    bits = f"--bits {method['bits']} " if "bits" in method else ""
    group = f"--group {method['group']} " if method.get("group", "channel") != "channel" else ""
    return f"robustq compress {model} {bits}{group}--method {method['name']} --data NAME --epochs 3"


def _named(methods: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(method["name"]) for method in methods) or "by an unnamed method"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
