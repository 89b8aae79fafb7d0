"""Compressing a checkpoint without data: composition, what is recorded, what is refused."""

import json

import pytest
import torch

from robustq.core import checkpoint as checkpoints
from robustq.core.checkpoint import Checkpoint, Source
from robustq.core.compression import compress
from robustq.core.errors import NothingCompressedError, OptionError, UnknownNameError, WeightError
from robustq.core.packed import Circulant, Half, Quantized, Sparse
from robustq.core.quantizers.projection import quantize
from robustq.core.recipe import Spec

SOURCE = Source("models/my net.pt", "torch", "ab" * 32, 12345)


def net(seed: int = 0) -> Checkpoint:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv1": (8, 3, 3, 3), "conv2": (8, 8, 3, 3), "conv3": (12, 8, 3, 3), "fc1": (16, 12), "fc2": (10, 16)}
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights |= {"bn.running_var": torch.ones(8), "bn.num_batches_tracked": torch.tensor(7), "fc2.bias": torch.ones(10)}
    return Checkpoint(weights, {}, {}, {"data": {"name": "digits"}}, SOURCE)


def test_each_tensor_is_stored_as_asked_and_the_rest_untouched():
    start = net()
    result = compress(start, [Spec("projection", {"bits": "4", "balance": "false"})])
    made = result.checkpoint
    assert {name: type(t) for name, t in made.packed.items()} == {
        "conv1.weight": Half,
        "conv2.weight": Quantized,
        "conv3.weight": Quantized,
        "fc1.weight": Quantized,
        "fc2.weight": Half,
    }
    assert list(made.weights) == ["bn.running_var", "bn.num_batches_tracked", "fc2.bias"]
    assert all(made.weights[name] is start.weights[name] for name in made.weights)
    assert torch.equal(made.packed["fc1.weight"].dense(), quantize(start.weights["fc1.weight"], 4).dense())
    assert result.warnings == []


def test_layers_report_errors_bits_and_zeros():
    start = net()
    result = compress(start, [Spec("projection", {"bits": 3})])
    assert [layer["name"] for layer in result.layers] == [n for n in start.weights if n.startswith(("conv", "fc"))][:5]
    by_name = {layer["name"]: layer for layer in result.layers}
    assert [layer["bits"] for layer in result.layers] == [16, 3, 3, 3, 16]
    w, dense = start.weights["conv3.weight"], result.checkpoint.packed["conv3.weight"].dense()
    assert by_name["conv3.weight"]["relative_error"] == pytest.approx(float((w - dense).norm() / w.norm()), rel=1e-5)
    assert by_name["conv3.weight"]["zeros"] == int((dense == 0).sum())
    assert by_name["conv3.weight"]["shape"] == [12, 8, 3, 3]
    assert by_name["conv1.weight"]["relative_error"] < 1e-3
    json.dumps(result.layers)


def test_meta_tells_how_it_was_made():
    made = compress(net(), [Spec("magnitude", {"sparsity": 0.5}), Spec("projection", {"bits": 4})], keep_fp=("first",))
    meta = made.checkpoint.meta
    assert [method["name"] for method in meta["methods"]] == ["magnitude", "projection"]
    assert meta["methods"][1]["group"] == "channel"
    assert meta["keep_fp"] == ["first"]
    assert meta["parent"] == {"sha256": "ab" * 32, "name": "my net.pt", "bytes": 12345}
    assert meta["data"] == {"name": "digits"}
    assert meta["tool"].startswith("robustq ")
    assert made.checkpoint.source.bytes == 0  # no longer the file it came from


def test_file_gives_back_exactly_the_evaluated_weights(tmp_path):
    for methods in (["projection:bits=2,group=5"], ["magnitude", "projection:bits=4"], ["circulant:block=3"]):
        made = compress(net(), [Spec.parse(text) for text in methods]).checkpoint
        checkpoints.save(made, tmp_path / "m.safetensors", force=True)
        back = checkpoints.load(tmp_path / "m.safetensors")
        assert back.dense().keys() == made.dense().keys()
        assert all(torch.equal(back.dense()[name], value) for name, value in made.dense().items())
        assert checkpoints.dumps(made) == checkpoints.dumps(
            compress(net(), [Spec.parse(t) for t in methods]).checkpoint
        )


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("balance", [True, False])
def test_zeros_of_pruning_survive_quantization(bits, balance):
    pruned = compress(net(), [Spec("magnitude", {"sparsity": 0.6})]).checkpoint
    both = compress(
        net(), [Spec("magnitude", {"sparsity": 0.6}), Spec("projection", {"bits": bits, "balance": balance})]
    ).checkpoint
    for name, tensor in pruned.packed.items():
        if isinstance(tensor, Sparse):
            assert isinstance(both.packed[name], Quantized)
            assert (both.packed[name].dense()[~tensor.mask] == 0).all()


def test_a_pruned_file_can_be_quantized_later_and_keeps_its_parent(tmp_path):
    pruned = compress(net(), [Spec("magnitude")]).checkpoint
    checkpoints.save(pruned, tmp_path / "pruned.safetensors")
    again = compress(checkpoints.load(tmp_path / "pruned.safetensors"), [Spec("projection", {"bits": 4})]).checkpoint
    once = compress(net(), [Spec("magnitude"), Spec("projection", {"bits": 4})]).checkpoint
    assert again.meta["parent"]["name"] == "my net.pt"
    assert [method["name"] for method in again.meta["methods"]] == ["magnitude", "projection"]
    assert all(torch.equal(again.dense()[name], value) for name, value in once.dense().items())


def test_tied_tensors_are_compressed_once():
    start = net()
    tied = Checkpoint(start.weights, {}, {"head.weight": "fc1.weight"}, {}, SOURCE)
    made = compress(tied, [Spec("projection", {"bits": 4})])
    assert "head.weight" not in [layer["name"] for layer in made.layers]
    assert torch.equal(made.checkpoint.dense()["head.weight"], made.checkpoint.dense()["fc1.weight"])


@pytest.mark.parametrize("bits", [1, 2])
def test_low_bits_warn_with_the_command_that_recovers(bits):
    (warning,) = compress(net(), [Spec("projection", {"bits": bits, "group": "layer"})]).warnings
    command = f"robustq compress 'models/my net.pt' --bits {bits} --group layer --method binary-relax --data NAME"
    assert command in warning


def test_circulant_reports_energy_warns_and_names_what_was_too_small():
    result = compress(net(), [Spec("circulant", {"block": 8})], keep_fp=("none",))
    assert [w.split(":")[0] for w in result.warnings][1] == "too small for circulant, kept in fp16"
    assert result.warnings[1].endswith(": conv1.weight.")
    assert "robustq train --init 'models/my net.pt' --compress circulant:block=8" in result.warnings[0]
    by_name = {layer["name"]: layer for layer in result.layers}
    assert by_name["conv1.weight"]["scheme"] == "half"
    for name in ("conv2.weight", "fc1.weight"):
        assert by_name[name]["energy"] == pytest.approx(1 - by_name[name]["relative_error"] ** 2, abs=1e-3)
    assert isinstance(result.checkpoint.packed["fc1.weight"], Circulant)
    assert compress(net(), [Spec("circulant", {"block": 2})]).warnings == []


def test_an_emptied_layer_is_said():
    start = net()
    start.weights["conv2.weight"] *= 1e-3
    (warning,) = compress(start, [Spec("magnitude", {"sparsity": 0.6})]).warnings
    assert "all weights are zero now in conv2.weight" in warning


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ([], "no compression method"),
        (["projection", "magnitude"], "Put magnitude before projection"),
        (["projection", "projection:bits=4"], "both quantize"),
        (["magnitude", "circulant"], "magnitude and circulant cannot be combined"),
        (["circulant", "projection"], "circulant and projection cannot be combined"),
        (["magnitude", "projection:bits=1"], "projection with bits=1 after pruning would fill the zeros"),
        (["binary-relax:bits=2"], r"compress 'models/my net.pt' --bits 2 --method binary-relax --data NAME --epochs 3"),
        (["projection:bits=6"], "bits is 6"),
    ],
)
def test_refusals(methods, said):
    with pytest.raises(OptionError, match=said):
        compress(net(), [Spec.parse(text) for text in methods])


def test_unknown_method_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'projection'"):
        compress(net(), [Spec("projektion")])


def test_a_quantized_file_is_not_compressed_again():
    made = compress(net(), [Spec("projection", {"bits": 4})]).checkpoint
    with pytest.raises(
        OptionError, match=r"compressed already \(projection\).\nCompress the model it was made from: my"
    ):
        compress(made, [Spec("projection", {"bits": 2})])


def test_nothing_to_compress():
    biases = Checkpoint({"bias": torch.ones(3), "embed.weight": torch.ones(9, 4)}, {}, {}, {}, SOURCE)
    with pytest.raises(NothingCompressedError, match="none of the 2 tensors"):
        compress(biases, [Spec("projection")])
    one = Checkpoint({"fc.weight": torch.ones(3, 4)}, {}, {}, {}, SOURCE)
    with pytest.raises(NothingCompressedError, match=r"keep-fp keeps all there is \(fc.weight\)"):
        compress(one, [Spec("projection")])
    with pytest.raises(NothingCompressedError, match="too small for circulant"):
        compress(one, [Spec("circulant", {"block": 8})], keep_fp=("none",))


def test_weights_that_are_no_numbers():
    start = net()
    start.weights["conv2.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightError, match=r"'conv2\.weight' holds 1 NaN"):
        compress(start, [Spec("projection")])
