"""PackedLinear, PackedConv2d and pack_model against the dequantized network."""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustq.kernels import PackedConv2d, PackedLinear, backend, fuse, pack_model, reference, triples
from robustq.kernels.packed import Packed

needs_native = pytest.mark.skipif(backend.native is None, reason="the native module is not built")


@dataclass
class Codes:
    """What pack_model needs of a compressed tensor."""

    codes: Tensor
    scale: Tensor
    levels: int = 1

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        rows, groups = self.scale.shape
        flat = self.codes.reshape(rows, -1).to(dtype)
        width = -(-flat.shape[1] // groups)
        return (flat * self.scale.to(dtype).repeat_interleave(width, 1)[:, : flat.shape[1]]).view(self.codes.shape)


def ternary(shape: tuple[int, ...], seed: int, groups: int = 1, rows: int | None = None) -> Codes:
    rng = torch.Generator().manual_seed(seed)
    codes = torch.randint(-1, 2, shape, generator=rng).to(torch.int8)
    scale = torch.rand(shape[0] if rows is None else rows, groups, generator=rng) + 0.5
    return Codes(codes, (scale / codes[0].numel() ** 0.5).half())


def with_bits(tensor: Codes, bits: int) -> Codes:
    """The same, or with codes from -7 to 7 in place of the ternary ones."""
    if bits == 2:
        return tensor
    rng = torch.Generator().manual_seed(int(tensor.codes.sum()) % 100)
    return Codes(torch.randint(-7, 8, tensor.codes.shape, generator=rng).to(torch.int8), tensor.scale, 7)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(20, 24, (3, 1), padding="same", groups=4, bias=False)
        self.wrap = nn.Conv2d(24, 8, 3, padding=(1, 2), padding_mode="circular", dilation=2)
        self.head = nn.Linear(8 * 9, 10)
        self.again = self.head  # the same layer under a second name
        self.dense = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wrap(torch.relu(self.deep(torch.relu(self.conv(x)))))
        return self.dense(self.again(nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)))


def network() -> tuple[Block, dict[str, Codes]]:
    torch.manual_seed(0)
    net = Block().eval()
    packed = {
        "conv.weight": ternary((20, 3, 3, 3), 1, groups=4),
        "deep.weight": ternary((24, 5, 3, 1), 2),
        "wrap.weight": ternary((8, 24, 3, 3), 3, rows=1),
        "head.weight": ternary((10, 72), 4, groups=3),
    }
    net.load_state_dict({k: v.dense() for k, v in packed.items()}, strict=False)
    return net, packed


def far(y: Tensor, exact: Tensor) -> float:
    return float((y - exact).detach().abs().max() / exact.detach().abs().max())


def test_logits_are_those_of_the_dequantized_network() -> None:
    net, packed = network()
    small = pack_model(net, packed)
    for batch, size in [(1, 8), (5, 11), (33, 16)]:
        x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
        assert far(small(x), net(x)) <= 1e-5
    assert type(small.get_submodule("conv")) is PackedConv2d
    assert type(small.get_submodule("head")) is PackedLinear
    assert small.get_submodule("head") is small.get_submodule("again")
    assert type(small.get_submodule("dense")) is nn.Linear
    assert type(net.conv) is nn.Conv2d  # the network that was given is left alone
    assert not any(m.training for m in small.modules())


def test_input_gradients_are_those_of_the_dequantized_network() -> None:
    net, packed = network()
    grads = []
    for model in (net, pack_model(net, packed)):
        x = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        model(x).square().sum().backward()
        grads.append(x.grad)
    assert far(grads[1], grads[0]) <= 1e-5


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(
    "like",
    [
        nn.Conv2d(8, 18, 3),
        nn.Conv2d(8, 18, (3, 5), stride=2, padding=(1, 2), dilation=(2, 1)),
        nn.Conv2d(8, 18, 3, padding="same"),
        nn.Conv2d(8, 18, 3, padding="valid", groups=2, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
    ],
)
def test_exact_convolutions_run_from_their_codes(like: nn.Conv2d, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like torch's own in shape and memory, with and without a batch, and no weight is decoded."""
    tensor = with_bits(ternary(tuple(like.weight.shape), 5), bits)
    like = copy.deepcopy(like).requires_grad_(False)
    like.weight.copy_(tensor.dense())
    layer = PackedConv2d(tensor.codes, tensor.scale, like.bias, like, bits=bits)
    assert torch.equal(layer.weight, like.weight)
    monkeypatch.setattr(PackedConv2d, "weight", None)
    for size in (5, 6, 9):
        x = torch.randn(2, 8, size, size, generator=torch.Generator().manual_seed(2))
        for given in (x, x.contiguous(memory_format=torch.channels_last), x[0], x[:0]):
            y, exact = layer(given), like(given)
            assert y.shape == exact.shape
            assert y.is_contiguous() == exact.is_contiguous()
            assert torch.allclose(y, exact, 0, 1e-5)
    for wrong in (x[:, 1:], x[0, 0], x[None]):
        with pytest.raises(ValueError, match=r"\(n, 8, height, width\), found"):
            layer(wrong)


@pytest.mark.parametrize("mode", ["exact", "accurate", "int8"])
def test_what_is_not_even_stays_words_or_with_torch(mode: str) -> None:
    net, packed = network()
    kinds = {}
    for bits in (2, 4):
        small = pack_model(net, {name: with_bits(tensor, bits) for name, tensor in packed.items()}, mode)
        names = ("conv", "deep", "wrap", "head")
        kinds[bits] = [getattr(small.get_submodule(name), "packed", torch.zeros(())).dtype for name in names]
    head = torch.int32 if mode == "exact" else torch.uint8
    assert kinds[2] == [torch.int32, torch.uint8, torch.int32, head]  # scale groups, circular padding
    assert kinds[4] == [torch.float32, torch.uint8, torch.float32, torch.uint8]


@pytest.mark.parametrize(("bits", "bound"), [(2, 1e-12), (4, 1e-6)])  # at four bits the scale is float32
def test_a_float64_network(bits: int, bound: float) -> None:
    net, packed = plain(bits)
    for tensor in packed.values():
        tensor.scale = tensor.scale.double() * (1 + 1e-5)  # no float32
    net = net.double()
    net.load_state_dict({name: tensor.dense(torch.float64) for name, tensor in packed.items()}, strict=False)
    small = pack_model(net, packed)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    y = small(x)
    assert y.dtype == torch.float64
    assert far(y, net(x)) <= bound
    assert fuse(small, x) is small if bits == 2 else far(fuse(small, x)(x), net(x)) <= bound


def test_copies_pickles_and_state_dicts_give_the_same_outputs() -> None:
    net, packed = network()
    small = pack_model(net, packed)
    x = torch.rand(2, 3, 12, 12)
    y = small(x)
    assert torch.equal(copy.deepcopy(small)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(small))(x), y)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    other = pack_model(net, {name: ternary(t.codes.shape, 9, *t.scale.shape[::-1]) for name, t in packed.items()})
    assert not torch.equal(other(x), y)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), y)
    keys = {k for k in small.state_dict() if k.startswith("head.")}
    assert keys == {"head.packed", "head.scale", "head.bias"}


def test_dtypes() -> None:
    net, packed = network()
    small = pack_model(net, packed)
    x = torch.rand(2, 3, 12, 12)
    exact = copy.deepcopy(net).double()(x.double())
    double = small.double()(x.double())
    assert double.dtype == torch.float64
    assert small.get_submodule("conv").packed.dtype == torch.int32
    assert far(double, exact) <= 1e-12
    half = small.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert far(half.double(), exact) <= 0.1
    assert far(pack_model(net.double(), packed)(x.double()), exact) <= 1e-12


def test_weight_is_the_dense_weight() -> None:
    tensor = ternary((6, 4, 3, 3), 7, groups=2)
    layer = PackedConv2d(tensor.codes, tensor.scale, None, nn.Conv2d(4, 6, 3, bias=False))
    assert torch.equal(layer.weight, tensor.dense())
    assert layer.scale.dtype == torch.float32


def test_memory_is_two_bits_a_weight() -> None:
    tensor = ternary((64, 576), 1)
    layer = PackedLinear(tensor.codes, tensor.scale)
    assert layer.packed.nbytes * 8 == 2 * 64 * 576


def doubled(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return output * 2


def test_layers_that_cannot_be_replaced_stay() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Embedding(8, 8), nn.Linear(8, 8))
    net[1].register_forward_hook(doubled)
    packed = {f"{i}.weight": ternary((8, 8), i) for i in range(4)}
    packed["2.weight"].levels = 8
    packed["4.weight"] = ternary((8, 8), 5, groups=4, rows=1)  # one row of scales, four groups across the rows
    kinds = [type(layer) for layer in pack_model(net, packed).children()]
    assert kinds == [PackedLinear, nn.Linear, nn.Linear, nn.Embedding, nn.Linear]


def test_a_bare_layer_is_replaced() -> None:
    net, tensor = nn.Linear(12, 5).train(), ternary((5, 12), 3)
    small = pack_model(net, {"weight": tensor})
    assert type(small) is PackedLinear
    assert small.training
    assert torch.equal(small.weight, tensor.dense())
    assert "ternary 5 x 12, scale (5, 1), bias=True" in repr(small)


def test_refusals() -> None:
    net, packed = network()
    with pytest.raises(ValueError, match=r"no parameter 'net.conv.weight'; it has conv.weight, deep.weight"):
        pack_model(net, {f"net.{name}": tensor for name, tensor in packed.items()})
    with pytest.raises(ValueError, match=r"'conv.weight' have shape \(20, 27\), .* has \(20, 3, 3, 3\)"):
        pack_model(net, {"conv.weight": ternary((20, 27), 1)})
    with pytest.raises(ValueError, match="exact, accurate, int8, found 'fast'"):
        pack_model(net, packed, mode="fast")
    codes = packed["head.weight"].codes.clone()
    codes[3, 4] = -3
    with pytest.raises(ValueError, match="values from -3 to 1"):
        pack_model(net, {"head.weight": Codes(codes, torch.ones(1, 1))})
    with pytest.raises(ValueError, match=r"shape \(5,\), found \(4,\)"):
        PackedLinear(torch.zeros(5, 3, dtype=torch.int8), torch.ones(1, 1), torch.zeros(4))
    with pytest.raises(ValueError, match=r"found shape \(2, 1\)"):
        PackedLinear(torch.zeros(5, 3, dtype=torch.int8), torch.ones(2, 1))
    with pytest.raises(ValueError, match="positive, found 0"):
        PackedLinear(torch.zeros(0, 3, dtype=torch.int8), torch.ones(1, 1))


def test_a_damaged_state_dict_is_refused() -> None:
    tensor = ternary((5, 12), 3)
    layer = PackedLinear(tensor.codes, tensor.scale)
    good = layer.state_dict()
    bad = {**good, "packed": good["packed"].clone()}
    bad["packed"][0, 0, 0] = 0b10
    with pytest.raises(RuntimeError, match="1 of 60 codes hold the bit pattern 10"):
        layer.load_state_dict(bad)
    with pytest.raises(RuntimeError, match=r"packed must be int32, found torch.float32"):
        layer.load_state_dict({**good, "packed": good["packed"].float()})
    with pytest.raises(RuntimeError, match="size mismatch for packed"):
        layer.load_state_dict({**good, "packed": reference.pack(torch.zeros(17, 12, dtype=torch.int8))})


def test_compiles_without_a_graph_break() -> None:
    net, packed = network()
    small = pack_model(net, packed)
    x = torch.rand(2, 3, 12, 12)
    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    assert far(compiled(x), net(x)) <= 1e-5


LIMITS = {"exact": 1e-5, "accurate": 5e-4, "int8": 6e-2}  # three layers' rounding, relative to the largest output


@pytest.mark.parametrize("mode", ["accurate", "int8"])
def test_integer_modes_stay_near_the_dequantized_network(mode: str) -> None:
    net, packed = network()
    small = pack_model(net, packed, mode=mode)
    x = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    assert far(small(x), net(x)) <= LIMITS[mode]
    modes = {name: layer.mode for name, layer in small.named_modules() if isinstance(layer, Packed)}
    # Scale groups and circular padding are for the exact mode alone.
    assert modes == {"conv": "exact", "deep": mode, "wrap": "exact", "head": mode}
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    other = pack_model(net, {name: ternary(t.codes.shape, 9, *t.scale.shape[::-1]) for name, t in packed.items()}, mode)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), other, small.double().float()):
        assert torch.equal(twin(x), small(x))
    assert small.get_submodule("head").scale.dtype == torch.float32
    assert small.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def plain(bits: int) -> tuple[nn.Sequential, dict[str, Codes]]:
    """Convolutions that `lowbit_conv2d` covers, with a linear head."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 18, 3, padding=1), nn.ReLU(), nn.Conv2d(18, 40, 1, stride=2, bias=False), nn.Flatten()
    )
    net.append(nn.Linear(40 * 16, 10)).eval()
    packed = {"0.weight": ternary((18, 3, 3, 3), 1), "2.weight": ternary((40, 18, 1, 1), 2, rows=1)}
    packed["4.weight"] = ternary((10, 640), 3, groups=5)
    packed = {name: with_bits(tensor, bits) for name, tensor in packed.items()}
    net.load_state_dict({k: v.dense() for k, v in packed.items()}, strict=False)
    return net, packed


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("mode", ["exact", "accurate", "int8"])
def test_convolutions_from_codes(mode: str, bits: int) -> None:
    net, packed = plain(bits)
    small = pack_model(net, packed, mode=mode)
    assert [(layer.mode, layer.bits) for layer in small.children() if isinstance(layer, Packed)] == 3 * [(mode, bits)]
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert far(small(x), net(x)) <= LIMITS[mode]
    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), small(x))
    assert torch.equal(torch.export.export(small, (x,)).module()(x), small(x))
    grads = []
    for model in (net, small):
        leaf = x.clone().requires_grad_()
        model.get_submodule("0")(leaf).square().sum().backward()
        grads.append(leaf.grad)
    assert far(grads[1], grads[0]) <= LIMITS[mode]
    first = small.get_submodule("0")
    assert isinstance(first, PackedConv2d)
    assert torch.equal(first.weight, packed["0.weight"].dense())
    assert first(x).is_contiguous()
    last = x.contiguous(memory_format=torch.channels_last)
    assert first(last).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first(last), first(x))
    assert torch.equal(first(x[0]), first(x[:1])[0])


def test_integer_refusals() -> None:
    codes, scale = torch.zeros(8, 4, 3, 3, dtype=torch.int8), torch.ones(8, 1)
    for like in (nn.Conv2d(4, 8, (3, 4), padding="same"), nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")):
        with pytest.raises(ValueError, match="one group of scales and zeros as padding"):
            PackedConv2d(codes, scale, None, like, mode="int8")
    layer = PackedConv2d(codes, scale, None, nn.Conv2d(4, 8, 3), mode="int8")
    with pytest.raises(ValueError, match=r"\(n, 4, height, width\), found \(2, 3, 5, 5\)"):
        layer(torch.zeros(2, 3, 5, 5))
    for uneven, scales in ((nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"), scale), (like, torch.ones(8, 2))):
        with pytest.raises(ValueError, match=r"4-bit codes in mode 'exact' convolve with one group of scales"):
            PackedConv2d(codes, scales, None, uneven, bits=4)
    assert "4-bit 8 x 4 x 3 x 3, scale (1, 8), bias=False, mode=exact" in repr(
        PackedConv2d(codes, scale, None, nn.Conv2d(4, 8, 3), bits=4)
    )
    good = layer.state_dict()
    bad = {**good, "packed": good["packed"].clone()}
    bad["packed"][0, 0, 0] = 0b01010111
    with pytest.raises(RuntimeError, match="1 of 288 codes hold the bit pattern 11"):
        layer.load_state_dict(bad)
    with pytest.raises(RuntimeError, match=r"packed must be uint8, found torch.float32"):
        layer.load_state_dict({**good, "packed": good["packed"].float()})


@pytest.mark.parametrize(("mode", "bound"), [("exact", 1e-5), ("accurate", 1e-4), ("int8", 2.5e-2)])
@pytest.mark.parametrize("bits", [2, 4])
def test_linear_layer_with_zero_points(mode: str, bits: int, bound: float) -> None:
    rng = torch.Generator().manual_seed(0)
    codes, zero = (torch.randint(0, 2**bits, size, generator=rng).to(torch.uint8) for size in [(30, 300), (30, 3)])
    scale, bias = torch.rand(30, 3, generator=rng) + 0.5, torch.randn(30, generator=rng)
    layer = PackedLinear(codes, scale, bias, mode, bits, zero)
    weight = (codes.double() - zero.double().repeat_interleave(100, 1)) * scale.double().repeat_interleave(100, 1)
    assert torch.equal(layer.weight.double(), weight.float().double())
    x = torch.randn(9, 300, generator=rng)
    y, exact = layer(x).double(), x.double() @ weight.T + bias.double()
    assert float((y - exact).abs().max() / exact.abs().max()) <= bound
    twin = PackedLinear(torch.zeros_like(codes), scale, bias, mode, bits, torch.zeros_like(zero))
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x), layer(x))
    assert "zero points" in repr(copy.deepcopy(layer).half())
    one = PackedLinear(codes, scale[:1], bias, mode, bits, zero[:1])
    assert torch.equal(
        one(x), PackedLinear(codes, scale[:1].repeat(30, 1), bias, mode, bits, zero[:1].repeat(30, 1))(x)
    )


def test_wrong_zero_points_are_refused() -> None:
    codes, scale, zero = torch.zeros(5, 8, dtype=torch.uint8), torch.ones(5, 2), torch.zeros(5, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"uint8 of the scale's shape \(5, 2\), found torch.uint8 of shape \(5, 1\)"):
        PackedLinear(codes, scale, bits=4, zero=zero[:, :1])
    with pytest.raises(ValueError, match="zero points of 4 bits are below 16, found 16"):
        PackedLinear(codes, scale, bits=4, zero=zero + 16)
    with pytest.raises(TypeError, match=r"with zero points must be uint8, found torch.int8"):
        PackedLinear(codes.to(torch.int8), scale, bits=4, zero=zero)
    with pytest.raises(ValueError, match="codes of 2 bits are below 4, found 4"):
        PackedLinear(codes + 4, scale, bits=2, zero=zero)
    layer = PackedLinear(codes, scale, bits=4, zero=zero)
    with pytest.raises(RuntimeError, match="zero: zero points of 4 bits are below 16"):
        layer.load_state_dict({**layer.state_dict(), "zero": layer.state_dict()["zero"] + 16})


def layer(mode: str = "accurate", bits: int = 2, seed: int = 0) -> PackedLinear:
    tensor = ternary((20, 36), seed)
    return PackedLinear(tensor.codes, tensor.scale, torch.ones(20), mode, bits).eval()


CHANGES: dict[str, Callable[[PackedLinear], None]] = {
    "loaded": lambda made: ignore(made.load_state_dict(layer(made.mode, seed=1).state_dict())),
    "assigned": lambda made: ignore(made.load_state_dict(layer(made.mode, seed=1).state_dict(), assign=True)),
    "other data": lambda made: setattr(made.bias, "data", torch.full((20,), 3.0)),
    "in place": lambda made: ignore(made.scale.mul_(2)),
    "another buffer": lambda made: setattr(made, "scale", 3 * made.scale),
    "no bias": lambda made: setattr(made, "bias", None),
    "half": lambda made: ignore(made.half()),
    "half and back": lambda made: ignore(made.half().float()),
}


def ignore(value: object) -> None:
    pass


@needs_native
@pytest.mark.parametrize("mode", ["exact", "accurate"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_has_run_sees_its_tensors_change(mode: str, change: str) -> None:
    made, x = layer(mode), torch.randn(3, 36, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = made(x)
        assert made.ready is not None
        CHANGES[change](made)
        after = made(x)
        assert "half" in change or not torch.equal(before, after)
        assert far(after, F.linear(x, made.weight, made.bias if made.bias is None else made.bias.float())) <= 1e-3
        assert torch.equal(copy.deepcopy(made)(x), after)
        assert torch.equal(made(x), after)


@needs_native
@pytest.mark.parametrize("mode", ["exact", "accurate"])
def test_a_layer_that_has_run_refuses_as_before(mode: str) -> None:
    made, x = layer(mode), torch.randn(3, 36)
    with torch.no_grad():
        made(x)
        for wrong in (x[:, :-1], x[0, 0], x[:, :0]):
            with pytest.raises(ValueError, match="the last dimension of x must be 36"):
                made(wrong)
        with pytest.raises(TypeError, match="x must be floating"):
            made(x.int())
        assert made(x[:0]).shape == (0, 20)
        assert torch.equal(made(x.T.contiguous().T), made(x))
        assert torch.equal(made(x[None, None])[0, 0], made(x))
        assert made(x[0]).shape == (20,)
        assert far(made(x[0]), made(x)[0]) <= 1e-6
        for name, rows in (("bias", 19), ("scale", 10), ("packed", 1)):
            made = layer(mode)
            made(x)
            tensor = getattr(made, name)
            tensor.data = tensor.data.flatten()[:rows].clone()
            with pytest.raises(ValueError, match="shape"):
                made(x)


@needs_native
def test_one_row_goes_by_triples_that_follow_the_codes() -> None:
    first, second = ternary((80, 130), 0), ternary((80, 130), 1)
    x = torch.randn(1, 130, generator=torch.Generator().manual_seed(0))
    made = PackedLinear(first.codes, first.scale, torch.ones(80))
    with torch.no_grad():
        assert far(made(x), F.linear(x, first.dense(), torch.ones(80))) <= 1e-5
        fast = backend.native.isa() in triples.FAST
        assert (made.ready is not None and made.ready.alone is not None) == fast
        made.load_state_dict(PackedLinear(second.codes, second.scale, torch.zeros(80)).state_dict())
        for shaped in (x, x[0], x[None]):
            assert far(made(shaped), F.linear(shaped, second.dense())) <= 1e-5
        if fast and made.ready is not None and made.ready.alone is not None:
            assert made.ready.alone.made[1].in_features == 130
    with torch.inference_mode():
        assert far(PackedLinear(first.codes, first.scale)(x), F.linear(x, first.dense())) <= 1e-5


@needs_native
def test_a_layer_keeps_its_memory_and_drops_what_it_left() -> None:
    """An address alone would do for the tensor that comes to lie there next."""
    made, x = layer(), torch.randn(1, 36)
    with torch.no_grad():
        made(x)
        kept = made.ready
        assert kept is not None
        assert kept.same(made.packed, made.scale, made.bias, None)
        address = made.scale.data_ptr()
        made.scale.data = torch.zeros(1, 20)
        others = [torch.empty(1, 20) for _ in range(100)]
        assert address not in [other.data_ptr() for other in others]
    assert pickle.loads(pickle.dumps(made)).ready is None
    assert made.to(torch.float64).ready is None


@needs_native
def test_autograd_sees_a_layer_that_has_run() -> None:
    made, x = layer("exact"), torch.randn(2, 36)
    with torch.no_grad():
        made(x)
    assert made.ready is not None
    assert made.bias is not None
    made.bias.requires_grad_()
    made(x).sum().backward()
    assert made.bias.grad is not None
    made.bias.requires_grad_(False)
    tracked = x.clone().requires_grad_()
    assert made(tracked).requires_grad
    assert not made(x).requires_grad
    compiled = torch.compile(made, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), made(x))
