"""The tensors of a model without the channels that a plan removes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..packed import Circulant, Factored, Half, Packed, Quantized, Sparse
from .flow import Flow
from .layers import Reader
from .plan import Plan


def whole(checkpoint: Checkpoint) -> dict[str, str]:
    """Layer -> why what the file holds of it cannot be cut."""
    found = {}
    for name, tensor in checkpoint.packed.items():
        layer = name.rpartition(".")[0]
        if isinstance(tensor, Circulant):
            found[layer] = "its weight is block-circulant"
        elif isinstance(tensor, Factored):
            found[layer] = "its weight is a product of factors"
        elif isinstance(tensor, Quantized) and tensor.scale.shape[1] > 1:
            found[layer] = "its scales belong to groups of inputs"
    for pair in checkpoint.aliases.items():
        found |= {name.rpartition(".")[0]: f"its tensors are tied ({pair[0]} is {pair[1]})" for name in pair}
    return found


def rounded(checkpoint: Checkpoint, layers: Sequence[str]) -> dict[str, bool]:
    """Layer -> whether its weight is rounded to fewer than 32 bits; without those that hold codes."""
    found = {}
    for layer in layers:
        stored = checkpoint.packed.get(f"{layer}.weight", checkpoint.weights.get(f"{layer}.weight"))
        values = stored.values if isinstance(stored, (Half, Sparse)) else stored
        if isinstance(values, Tensor):
            found[layer] = values.element_size() < 4
    return found


def cut(checkpoint: Checkpoint, flow: Flow, plan: Plan) -> Checkpoint:
    """The checkpoint with its tensors cut and what removed channels contributed folded into those that stay."""
    return _Cutter(checkpoint, flow, plan).cut()


class _Cutter:
    def __init__(self, checkpoint: Checkpoint, flow: Flow, plan: Plan) -> None:
        self.checkpoint, self.flow, self.plan = checkpoint, flow, plan
        self.weights, self.packed = dict(checkpoint.weights), dict(checkpoint.packed)
        self.dense = checkpoint.dense()
        self.readers = {reader.name: reader for reader in flow.readers}

    def cut(self) -> Checkpoint:
        for reader in self.flow.readers:  # before anything is cut: all sizes are still the old ones
            self._fold(reader)
        for writer in self.flow.writers:
            rows = self._stays(writer.ids)
            for part in ("bias", "running_mean", "running_var"):
                if f"{writer.name}.{part}" in self.weights:
                    self.weights[f"{writer.name}.{part}"] = self.weights[f"{writer.name}.{part}"][rows].clone()
            self._cut_weight(writer.name, rows, writer.makes)
        sides = {pad.name: [self._stays(pad.front), self._stays(pad.back)] for pad in self.flow.pads}
        pads = {name: [int(side.sum()) for side in both] for name, both in sides.items() if not torch.cat(both).all()}
        meta = {**self.checkpoint.meta, "shrunk": {"pads": pads}}
        return replace(self.checkpoint, weights=self.weights, packed=self.packed, meta=meta)

    def _stays(self, ids: Tensor) -> Tensor:
        """bool, True for the channels that are not removed."""
        return torch.tensor([slot not in self.plan.removed for slot in self.flow.slots.roots(ids).tolist()])

    def _fold(self, reader: Reader) -> None:
        """Constants that go become part of the layer's bias, or of the mean of the batch norm that follows it."""
        gone = ~self._stays(reader.ids) & ~reader.constant.isnan()
        if reader.padded:
            gone = gone & (reader.constant == 0)  # the others are merged
        name = reader.name
        w = self.dense[f"{name}.weight"].double()
        sums = w.flatten(2).sum(2) if w.ndim > 2 else w
        shift = sums[:, gone] @ reader.constant[gone]
        if not bool((shift != 0).any()):
            return
        norm = self.flow.norms.get(name)
        if f"{name}.bias" in self.weights:
            bias = self.weights[f"{name}.bias"]
            self.weights[f"{name}.bias"] = (bias.double() + shift).to(bias.dtype)
        elif norm is not None:
            mean = self.weights[f"{norm}.running_mean"]
            self.weights[f"{norm}.running_mean"] = (mean.double() - shift).to(mean.dtype)
        else:
            self.weights[f"{name}.bias"] = shift.float()

    def _cut_weight(self, name: str, rows: Tensor, makes: bool) -> None:
        key = f"{name}.weight"
        if not makes:
            if key in self.weights:
                self.weights[key] = self.weights[key][rows].clone()
            return
        reader = self.readers.get(name)  # none for grouped convolutions, whose columns go with their rows
        columns = slice(None) if reader is None else self._stays(reader.ids)
        if key in self.packed:
            self.packed[key] = self._cut_packed(self.packed[key], name, rows, columns)
        else:
            stored = self._merged(name, self.weights[key].dtype) if name in self.plan.merged else self.weights[key]
            self.weights[key] = stored[rows][:, columns].clone()

    def _cut_packed(self, tensor: Packed, name: str, rows: Tensor, columns: Tensor | slice) -> Packed:
        if isinstance(tensor, Quantized):
            scale = tensor.scale if len(tensor.scale) == 1 else tensor.scale[rows].clone()
            return replace(tensor, codes=tensor.codes[rows][:, columns].clone(), scale=scale)
        assert isinstance(tensor, (Half, Sparse))  # `whole` keeps the others
        values = tensor.dense().to(tensor.values.dtype)
        if name in self.plan.merged:
            values = self._merged(name, tensor.values.dtype)
        values = values[rows][:, columns].clone()
        mask = values != 0
        sparse, half = Sparse(values[mask], mask), Half(values)
        return min((half, sparse), key=_bytes) if isinstance(tensor, Sparse) else half

    def _merged(self, name: str, dtype: torch.dtype) -> Tensor:
        """The weight, its columns for the constant channels that stay taking over those of all that are constant.

        Each takes what rounding left of the ones before it.
        """
        reader, w = self.readers[name], self.dense[f"{name}.weight"].double().clone()
        roots, constant = self.flow.slots.roots(reader.ids), reader.constant
        for group in self.plan.merged[name]:
            together = torch.tensor([slot in group.removed or slot in group.stays for slot in roots.tolist()])
            left = torch.einsum("oc...,c->o...", w[:, together], constant[together])
            for slot in group.stays:
                place = int((roots == slot).nonzero()[0])
                w[:, place] = (left / constant[place]).to(dtype).double()
                left = left - w[:, place] * constant[place]
        return w.to(dtype)


def _bytes(tensor: Packed) -> int:
    return sum(part.numel() * part.element_size() for part in tensor.encode()[1].values())
