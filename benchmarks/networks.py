"""Whole packed networks beside torch and onnxruntime: python benchmarks/networks.py > n.json

Without a file, ternary (`--bits 4`: 4-bit) ResNet-20 and VGG-11 with random codes for images of CIFAR's size; `--model
FILE` measures a compressed checkpoint, `--data NAME|PATH` gives the images on which answers are compared (else noise),
`--isa NAME` forces instruction sets, `--threads N` is for all. Candidates take turns; medians of CPU time, with several
threads of wall time. Dense torch is contiguous and channels last, with and without batch norm folded, so that the
fastest of them can be taken.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse as fold_batch_norm

from robustq.core import architecture, checkpoint, datasets
from robustq.core.checkpoint import Checkpoint
from robustq.core.inference import frozen
from robustq.core.models.resnet import ResNet
from robustq.core.models.vgg import Vgg
from robustq.core.packed import Half, Packed, Quantized
from robustq.core.twin import twin
from robustq.kernels import backend, status
from robustq.kernels.measure import take_turns

BATCHES = (1, 64)
MODES = ("exact", "accurate", "int8")
NOISE = 256  # images, where none are given
Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Subject:
    """A compressed network: its dense form and its codes."""

    name: str
    model: architecture.Classifier
    codes: Checkpoint


def random_codes(name: str, net: nn.Module, bits: int) -> Subject:
    """Random codes for all but the first and last layer, of ternary ones two thirds zero; random batch norm.

    Scales are such that activations neither grow nor vanish.
    """
    rng = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1, generator=rng)
            module.running_var.uniform_(0.5, 2, generator=rng)
    weights = [(key, p) for key, p in net.named_parameters() if p.dim() > 1]
    made: dict[str, Packed] = {}
    for key, p in weights:
        if key in (weights[0][0], weights[-1][0]):
            made[key] = Half(p.detach().half())
        else:
            levels, variance = (1, 1 / 3) if bits == 2 else (7, 56 / 3)
            codes = torch.randint(-levels, levels + 1, p.shape, generator=rng)
            if bits == 2:
                codes *= torch.randint(0, 2, p.shape, generator=rng)
            scale = (torch.rand(len(p), 1, generator=rng) + 0.5) * (2 / variance / p[0].numel()) ** 0.5
            made[key] = Quantized(codes.to(torch.int8), scale, levels)
    net.load_state_dict({key: tensor.dense() for key, tensor in made.items()}, strict=False)
    return Subject(name, architecture.Classifier(net).eval(), Checkpoint({}, made, {}, {}))


def from_file(path: str) -> Subject:
    loaded = checkpoint.load(path)
    model = architecture.build(loaded)
    return Subject(path.rsplit("/", 1)[-1].removesuffix(".rq.safetensors"), model.eval(), loaded)


def dense_forms(model: nn.Module) -> dict[str, nn.Module]:
    """The dense model as torch may run it best."""
    folded = fold_batch_norm(copy.deepcopy(model))
    forms = {"torch_fp32": model, "torch_fp32_folded": folded}
    for name, form in list(forms.items()):
        forms[f"{name}_last"] = copy.deepcopy(form)
        for layer in forms[f"{name}_last"].modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return forms


def in_onnxruntime(model: nn.Module, x: Tensor) -> Run:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no more packages is called old
        file = Path(folder) / "model.onnx"
        torch.onnx.export(model, (x,), str(file), dynamo=False, input_names=["x"])
        stored = file.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(stored, options, providers=["CPUExecutionProvider"])
    fed = {"x": x.numpy()}
    return lambda: torch.from_numpy(session.run(None, fed)[0])


def answers(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(BATCHES[-1])])


def forced(isa: str, model: nn.Module, x: Tensor) -> Tensor:
    """The answers of a packed model on an instruction set, which stays in use."""
    backend.native.use(isa)
    return model(x)


@dataclass
class Measured:
    """A subject with what does not depend on the batch: the forms that are compared, and their answers on `x`."""

    subject: Subject
    x: Tensor
    isas: list[str]

    def __post_init__(self) -> None:
        self.dense = dense_forms(self.subject.model)
        found = {mode: twin(self.subject.codes, self.subject.model, self.x[:4], mode) for mode in MODES}
        self.packed = {mode: made.model for mode, made in found.items() if made is not None}
        expected = answers(self.subject.model, self.x)
        self.compared: dict[tuple[str, str], dict[str, float]] = {}
        for mode, model in self.packed.items():
            for isa in self.isas:
                backend.native.use(isa)
                y = answers(model, self.x)
                self.compared[mode, isa] = {
                    "agreement": float((y.argmax(1) == expected.argmax(1)).double().mean()),
                    "max_error": float((y - expected).abs().max() / expected.abs().max()),
                }

    def rows(self, batch: int, seconds: float) -> Iterator[dict[str, Any]]:
        """One row for each mode and instruction set, from `seconds` of measuring."""
        images = self.x[torch.arange(batch) % len(self.x)].contiguous()
        last = images.contiguous(memory_format=torch.channels_last)
        runs: dict[str, Run] = {}
        for name, form in self.dense.items():
            runs[name] = partial(form, last if name.endswith("_last") else images)
        try:
            runs["ort_fp32"] = in_onnxruntime(self.subject.model, images)
        except ImportError as error:
            print(f"note: no onnxruntime: {error}", file=sys.stderr)
        theirs = list(runs)
        runs |= {f"{mode} {isa}": partial(forced, isa, self.packed[mode], images) for mode, isa in self.compared}
        # Threads of others are not in the caller's CPU time.
        clock = time.thread_time_ns if torch.get_num_threads() == 1 else time.perf_counter_ns
        with torch.no_grad():
            ms = {name: us / 1000 for name, us in take_turns(runs, seconds, None, {}, clock).items()}
        for (mode, isa), found in self.compared.items():
            yield {
                "name": self.subject.name,
                "batch": batch,
                "mode": mode,
                "isa": isa,
                "ms": round(ms[f"{mode} {isa}"], 4),
                "baselines": {name: round(ms[name], 4) for name in theirs},
                **found,
            }


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="a compressed checkpoint; repeatable")
    parser.add_argument("--bits", type=int, choices=(2, 4), default=2, help="of the random codes, without --model")
    parser.add_argument("--data", help="images to compare answers on")
    parser.add_argument("--limit", type=int, default=1000, help="of these images")
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each network and batch")
    parser.add_argument("--isa", action="append", default=[], help="an instruction set; repeatable. Default: the best")
    parser.add_argument("--threads", type=int, default=1, help="of torch, onnxruntime and ours; from 2 on, wall time")
    return parser


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    if backend.native is None:
        parser.error(f"there are no native kernels to measure: {backend.reason}")
    if unknown := set(options.isa) - set(backend.native.available()):
        parser.error(f"this machine has no {', '.join(sorted(unknown))}, only {', '.join(backend.native.available())}")
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, found {options.threads}")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    subjects = [from_file(path) for path in options.model]
    if not subjects:
        subjects = [
            random_codes("ResNet-20", ResNet(depth=20).build(), options.bits),
            random_codes("VGG-11", Vgg(depth=11).build(), options.bits),
        ]
    if options.data:
        data = datasets.load(options.data, "test", limit=options.limit)
        x, kind = data.batch(torch.arange(len(data)))[0], data.name
    else:
        x, kind = torch.rand(NOISE, 3, 32, 32), "noise"
    found = []
    for subject in [each for each in subjects if options.only in each.name]:
        with frozen(subject.model):
            measured = Measured(subject, x, options.isa or [backend.native.isa()])
            for row in [row for batch in BATCHES for row in measured.rows(batch, options.seconds)]:
                conditions = {"bits": None if options.model else options.bits, "threads": options.threads}
                found.append(row | conditions | {"images": {"kind": kind, "n": len(x)}})
                ratios = {name: round(ms / row["ms"], 2) for name, ms in row["baselines"].items()}
                what = f"{row['name']} batch {row['batch']} {row['mode']} {row['isa']}"
                print(what, row["ms"], ratios, f"agreement {row['agreement']:.4f}", file=sys.stderr, flush=True)
    json.dump({"status": status(), "torch": torch.__version__, "networks": found}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
