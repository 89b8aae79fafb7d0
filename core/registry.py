"""The one table of names: kind -> name -> "module:Class", imported only when asked for.

A new method is one file, one line here and one row in its test table. `robustq methods` and the documentation's
tables are generated from this.
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from .errors import OptionError, UnknownNameError
from .option import Method, build

TABLE: dict[str, dict[str, str]] = {
    "attack": {
        "fgsm": "attacks.fgsm:Fgsm",
        "ifgsm": "attacks.pgd:Ifgsm",
        "pgd": "attacks.pgd:Pgd",
        "mi-fgsm": "attacks.mi_fgsm:MiFgsm",
        "apgd": "attacks.apgd:Apgd",
        "apgd-ce": "attacks.apgd:ApgdCe",
        "apgd-dlr": "attacks.apgd:ApgdDlr",
        "apgd-t": "attacks.apgd:ApgdT",
        "cw": "attacks.cw:Cw",
        "cw-linf": "attacks.cw:CwLinf",
        "deepfool": "attacks.deepfool:DeepFool",
        "fab": "attacks.fab:Fab",
        "fab-t": "attacks.fab:FabT",
        "square": "attacks.square:Square",
        "spsa": "attacks.spsa:Spsa",
        "transfer": "attacks.transfer:Transfer",
        "noise": "attacks.noise:Noise",
        "replay": "attacks.replay:Replay",
        "quick": "attacks.ensemble:Quick",
        "compressed": "attacks.compressed:Compressed",
        "autoattack": "attacks.ensemble:AutoAttack",
        "autoattack-plus": "attacks.ensemble:AutoAttackPlus",
        "autoattack-rand": "attacks.ensemble:AutoAttackRand",
        "ifgsm20": "attacks.protocols:Ifgsm20",
        "pgd7-dnr": "attacks.protocols:Pgd7Dnr",
        "pgd20-trades": "attacks.protocols:Pgd20Trades",
        "pgd50x10": "attacks.protocols:Pgd50x10",
        "pgd100": "attacks.protocols:Pgd100",
        "cw-enresnet": "attacks.protocols:CwEnresnet",
    },
    "objective": {
        "natural": "objectives.natural:Natural",
        "pgd-at": "objectives.pgd_at:PgdAt",
        "trade-off": "objectives.tradeoff:TradeOff",
        "trades": "objectives.trades:Trades",
        "mart": "objectives.mart:Mart",
        "fast": "objectives.fast:Fast",
        "free": "objectives.free:Free",
        "mat": "objectives.mat:Mat",
        "p-sat": "objectives.p_sat:PSat",
        "h-sat": "objectives.h_sat:HSat",
        "awp": "objectives.awp:Awp",
    },
    "quantizer": {
        "projection": "quantizers.data_free:Projection",
        "binary-relax": "quantizers.binary_relax:BinaryRelax",
        "binary-connect": "quantizers.binary_connect:BinaryConnect",
        "bcgd": "quantizers.bcgd:Bcgd",
        "quantized-relu": "quantizers.quantized_relu:QuantizedRelu",
    },
    "pruner": {
        "magnitude": "pruners.magnitude:Magnitude",
        "dnr": "pruners.dnr:Dnr",
        "hydra": "pruners.hydra:Hydra",
        "admm": "pruners.admm:Admm",
        "rvsm": "pruners.rvsm:Rvsm",
        "rgsm": "pruners.rgsm:Rgsm",
        "rsr": "pruners.rsr:Rsr",
        "shrink": "pruners.shrink:Shrink",
    },
    "structure": {
        "circulant": "structures.circulant:Circulant",
        "atmc": "structures.atmc:Atmc",
        "pni": "structures.pni:Pni",
        "non-expansive": "structures.non_expansive:NonExpansive",
    },
    "model": {
        "lenet": "models.lenet:LeNet",
        "resnet": "models.resnet:ResNet",
        "vgg": "models.vgg:Vgg",
        "enresnet": "models.enresnet:EnResNet",
    },
    "dataset": {
        "fashion-mini": "datasets.bundled:FashionMini",
        "fashion-mnist": "datasets.idx:FashionMnist",
        "mnist": "datasets.idx:Mnist",
        "digits": "datasets.digits:Digits",
        "cifar10": "datasets.cifar:Cifar10",
        "cifar100": "datasets.cifar:Cifar100",
    },
    "exporter": {
        "onnx": "exporters.onnx:Onnx",
        "safetensors": "exporters.safetensors:Safetensors",
        "state-dict": "exporters.state_dict:StateDict",
    },
}
COMPRESSORS = ("quantizer", "pruner", "structure")  # the kinds that `--method` and `--compress` choose from


def kinds() -> list[str]:
    """The kinds of method there are."""
    return list(TABLE)


def names(*kinds: str) -> list[str]:
    """The names of all methods of the given kinds, in the order of the table."""
    return [name for kind in kinds for name in TABLE[kind]]


def find(name: str, *kinds: str) -> type[Any]:
    """The class behind a name; UnknownNameError with "did you mean" where there is none."""
    for kind in kinds:
        if name in TABLE[kind]:
            module, _, attribute = TABLE[kind][name].partition(":")
            return getattr(importlib.import_module(f".{module}", __package__), attribute)
    raise UnknownNameError(f"There is no {kinds[0]} named {name!r}.", suggest(name, names(*kinds)))


def create(name: str, options: Mapping[str, Any], *kinds: str) -> Any:
    """The method of that name with these options (text is converted and checked)."""
    method = find(name, *kinds)
    try:
        return build(method, options)
    except OptionError as error:
        kind = next(kind for kind in kinds if name in TABLE[kind])
        problem = error.problem.removeprefix(f"{method.__name__}: ")
        raise type(error)(f"{kind} {name}: {problem}", error.remedy) from None


def name_of(method: Method) -> str:
    """The registered name of a method object."""
    target = f"{type(method).__module__.removeprefix(f'{__package__}.')}:{type(method).__name__}"
    for table in TABLE.values():
        for name, place in table.items():
            if place == target:
                return name
    return type(method).__name__


def suggest(name: str, known: list[str]) -> str:
    """A "did you mean" sentence, or the list of what there is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(known)}."
