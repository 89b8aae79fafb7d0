"""Layers that run from lists of what is not zero: against float64, on every instruction set; the choice; refusals."""

import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from robustq.kernels import backend, lowbit, lowbit_ops, ops, reference, sparse
from robustq.kernels.modules import PackedLinear

ISAS = list(backend.native.available()) if backend.native else []
pytestmark = pytest.mark.skipif(not ISAS, reason="the native module is not built")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = backend.native.isa()
    backend.native.use(request.param)
    with sparse.choice("always"):
        yield request.param
    backend.native.use(before)


def case(rows: int, out: int, columns: int, zeros: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, codes, scale (out,), bias."""
    rng = torch.Generator().manual_seed(seed)
    signs = 2 * torch.randint(0, 2, (out, columns), generator=rng) - 1
    codes = (signs * (torch.rand(out, columns, generator=rng) >= zeros)).to(torch.int8)
    x = torch.randn(rows, columns, generator=rng)
    return x, codes, torch.rand(out, generator=rng) + 0.5, torch.randn(out, generator=rng)


def exactly(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x.double(), codes.double() * scale.double()[:, None], bias.double())


def error(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def from_lists(
    x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor, mode: str, together: int, threads: int = 1
) -> Tensor:
    words = reference.pack(codes)
    lists = backend.native.make_lists(words.data_ptr(), True, *codes.shape, together)
    y = torch.full((len(x), len(codes)), 7.0)
    assert sparse.multiply(lists, x, len(x), scale, bias, y, mode, False, threads)
    return y


@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize(
    ("rows", "out", "columns", "zeros"),
    [
        (1, 1, 1, 0.0),
        (5, 33, 100, 0.5),
        (17, 70, 193, 0.9),  # one column more than a block has
        (49, 40, 129, 0.0),
        (64, 2100, 58, 0.95),  # more outputs than a panel has
        (130, 65, 1000, 0.8),
        (16, 20, 300, 1.0),
    ],
)
def test_agrees_with_float64(isa: str, rows: int, out: int, columns: int, zeros: float, together: int) -> None:
    x, codes, scale, bias = case(rows, out, columns, zeros)
    exact = exactly(x, codes, scale, bias)
    assert error(from_lists(x, codes, scale, bias, "exact", together), exact) <= 2e-6
    assert error(from_lists(x, codes, scale, bias, "accurate", together), exact) <= (1e-4 if out > 20 else 1e-3)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 70), st.integers(1, 90), st.integers(1, 400), st.floats(0, 1), st.integers(1, 3), st.data())
def test_any_size_and_share_of_zeros(
    rows: int, out: int, columns: int, zeros: float, together: int, data: st.DataObject
) -> None:
    before = backend.native.isa()
    backend.native.use(data.draw(st.sampled_from(ISAS)))
    x, codes, scale, bias = case(rows, out, columns, zeros, seed=data.draw(st.integers(0, 99)))
    exact = exactly(x, codes, scale, bias)
    y = from_lists(x, codes, scale, bias, "exact", together)
    backend.native.use(before)
    bound = 1e-6 * float(exactly(x.abs(), codes.abs(), scale, bias.abs()).max())
    assert float((y.double() - exact).abs().max()) <= bound


def test_all_of_one_sign(isa: str) -> None:
    """More entries of a block than one run of additions has."""
    x, _, scale, bias = case(20, 3, 500, 0.5)
    for code in (1, -1):
        codes = torch.full((3, 500), code, dtype=torch.int8)
        y = from_lists(x, codes, scale, bias, "exact", 1)
        assert float((y.double() - exactly(x, codes, scale, bias)).abs().max()) <= 1e-3
        whole = from_lists(torch.ones(20, 500), codes, torch.ones(3), torch.zeros(3), "exact", 1)
        assert torch.equal(whole, torch.full((20, 3), 500.0 * code))


def test_an_outlier_costs_the_accurate_mode_little(isa: str) -> None:
    x, codes, scale, bias = case(16, 64, 4096, 0.9)
    x[:, 17] = 50
    assert error(from_lists(x, codes, scale, bias, "accurate", 1), exactly(x, codes, scale, bias)) <= 1e-3


@pytest.mark.parametrize("mode", ["exact", "accurate"])
def test_the_ops_give_what_the_dense_kernels_give(isa: str, mode: str) -> None:
    x, codes, scale, bias = case(40, 70, 300, 0.7)
    made = PackedLinear(codes, scale[:, None], bias, mode)
    lists = made(x)
    assert sparse.known[made.packed].lists is not None
    with sparse.choice("never"):
        assert error(lists, made(x).double()) <= 2e-6
    x[3, 5], x[4, 6] = float("nan"), float("inf")  # a zero weight does not hide them
    for found, wanted in zip(made(x), reference_of(made, x), strict=True):
        assert torch.equal(found.isnan(), wanted.isnan())
    assert made(x[:0]).shape == (0, 70)
    assert made(x[0, :]).shape == (70,)


def reference_of(made: PackedLinear, x: Tensor) -> Tensor:
    if made.mode == "exact":
        return reference.ternary_linear(x, made.packed, made.scale, made.bias, *made.matrix)
    return lowbit.linear(x, made.packed, made.scale, made.bias, 2, made.matrix[1], made.mode, False)


def test_one_scale_and_relu(isa: str) -> None:
    x, codes, scale, bias = case(20, 30, 50, 0.6)
    words = reference.pack(codes)
    y = ops.ternary_linear(x, words, scale[:1, None], None, 30, 50)
    assert error(y, F.linear(x.double(), codes.double() * scale[0].double())) <= 2e-6
    bytes_of = lowbit.pack(codes, 2)
    active = lowbit_ops.lowbit_linear(x, bytes_of, scale[None], bias, 2, 50, "accurate", True)
    assert error(active, exactly(x, codes, scale, bias).relu()) <= 1e-4


def test_gradient_and_compile() -> None:
    x, codes, scale, bias = case(40, 150, 64, 0.9)
    made = PackedLinear(codes, scale[:, None], bias)
    with sparse.choice("always"):
        x.requires_grad_()
        made(x).square().sum().backward()
        compiled = torch.compile(made, fullgraph=True, backend="aot_eager")(x.detach())
        assert torch.equal(compiled, made(x.detach()))
    wide = x.detach().double().requires_grad_()
    exactly(wide, codes, scale, bias).square().sum().backward()
    assert x.grad is not None
    assert wide.grad is not None
    assert error(x.grad, wide.grad) <= 1e-5


def test_changed_codes_get_new_lists_and_lists_die_with_their_codes() -> None:
    x, codes, scale, bias = case(10, 20, 30, 0.5)
    made, other = PackedLinear(codes, scale[:, None], bias), PackedLinear(-codes, scale[:, None], bias)
    with sparse.choice("always"):
        made(x)
        made.load_state_dict(other.state_dict())
        assert error(made(x), exactly(x, -codes, scale, bias)) <= 2e-6
        count = len(sparse.known)
        del made
        gc.collect()
        assert len(sparse.known) < count


def test_corrupt_codes_stay_with_the_dense_kernel() -> None:
    x, codes, scale, _ = case(20, 20, 30, 0.5)
    words = reference.pack(codes)
    words[0, 0, 3] |= 2  # 10 or 11: make it 10
    words[0, 0, 3] &= ~1
    with sparse.choice("always"):
        y = ops.ternary_linear(x, words, scale[:, None], None, 20, 30)
    assert torch.equal(y.isnan().any(0).nonzero().flatten(), torch.tensor([3]))
    with pytest.raises(ValueError, match="bit pattern 10"):
        backend.native.make_lists(words.data_ptr(), True, 20, 30, 1)
    bytes_of = torch.full_like(lowbit.pack(codes, 2), 255)
    assert backend.native.count_nonzero(bytes_of.data_ptr(), False, 20, 30) == -1


@pytest.mark.parametrize("together", [1, 2, 3])
def test_lists_of_either_format_are_alike(together: int) -> None:
    for out, columns, zeros in [(1, 1, 0.0), (70, 193, 0.9), (130, 57, 0.4)]:
        _, codes, _, _ = case(1, out, columns, zeros)
        words, bytes_of = reference.pack(codes), lowbit.pack(codes, 2)
        one = backend.native.make_lists(words.data_ptr(), True, out, columns, together)
        two = backend.native.make_lists(bytes_of.data_ptr(), False, out, columns, together)
        assert one.nonzero == two.nonzero == int((codes != 0).sum())
        assert one.entries == two.entries == int((groups(codes, together) != 0).any(-1).sum())
        assert one.nbytes == two.nbytes


def groups(codes: Tensor, together: int) -> Tensor:
    """Groups of columns do not run across the blocks, which are whole groups but for the last."""
    width = {1: 192, 2: 128, 3: 57}[together]
    blocks = [F.pad(block, (0, -block.shape[1] % together)) for block in codes.split(width, 1)]
    return torch.cat([block.unflatten(1, (-1, together)) for block in blocks], 1)


def test_threads_do_not_change_a_bit() -> None:
    x, codes, scale, bias = case(200, 2100, 400, 0.9)
    one = from_lists(x, codes, scale, bias, "exact", 1)
    assert torch.equal(one, from_lists(x, codes, scale, bias, "exact", 1, threads=3))


def test_the_choice_follows_rows_zeros_and_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {backend.native.isa(): {"exact": ((16, 0.8), (64, 0.5))}}
    monkeypatch.setattr(sparse, "CROSSOVER", table)
    with sparse.choice("auto"):
        assert sparse.needed_zeros(4096, 15, "exact") is None
        assert sparse.needed_zeros(4096, 16, "exact") == 0.8
        assert sparse.needed_zeros(4096, 64, "exact") == 0.5
        assert sparse.needed_zeros(sparse.LEAST_OUTPUTS - 1, 64, "exact") is None
        assert sparse.needed_zeros(sparse.LEAST_OUTPUTS, 64, "exact") == sparse.FEW_ZEROS
        assert sparse.needed_zeros(4096, 64, "accurate") is None
        _, codes, _, _ = case(1, 600, 100, 0.7)
        words = reference.pack(codes)
        assert sparse.lists_for(words, 600, 100, 63, "exact") is None
        assert sparse.lists_for(words, 600, 100, 64, "exact").together == 2
    for wanted, zeros in [("never", None), ("always", 0.0)]:
        with sparse.choice(wanted):
            assert sparse.needed_zeros(1, 1, "exact") == zeros
            assert sparse.needed_zeros(4096, 256, "int8") is None
    assert set(sparse.CROSSOVER[backend.native.isa()]) <= set(lowbit.MODES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 0}, "bad address of x"),
        ({"x": 2}, "bad address of x"),
        ({"scale": 0}, "bad address of the scale"),
        ({"y": 0}, "bad address of y"),
        ({"bias": 1}, "bad address of the bias"),
        ({"rows": 0}, "rows must be positive"),
        ({"rows": 2**40}, "too large"),
        ({"scale_rows": 3}, "1 row or one per output; rows = 3"),
        ({"levels": -1.0}, "levels must be in 0"),
        ({"threads": 0}, "threads must be positive"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, float], message: str) -> None:
    x, codes, scale, bias = case(4, 5, 6, 0.5)
    words, y = reference.pack(codes), torch.empty(4, 5)
    lists = backend.native.make_lists(words.data_ptr(), True, 5, 6, 1)
    given_args = {"x": x.data_ptr(), "rows": 4, "scale": scale.data_ptr(), "scale_rows": 5, "bias": bias.data_ptr()}
    given_args |= {"levels": 0.0, "relu": False, "y": y.data_ptr(), "threads": 1} | change
    with pytest.raises(ValueError, match=message):
        backend.native.sparse_linear(lists, *given_args.values())
    with pytest.raises(TypeError):
        backend.native.sparse_linear(b"lists", *given_args.values())


@pytest.mark.parametrize(
    "change",
    [{"codes": 0}, {"codes": 2}, {"out": 0}, {"out": 2**31}, {"columns": -1}, {"together": 0}, {"together": 4}],
)
def test_lists_of_bad_codes_are_refused(change: dict[str, int]) -> None:
    words = reference.pack(torch.ones(5, 6, dtype=torch.int8))
    arguments = {"codes": words.data_ptr(), "words": True, "out": 5, "columns": 6, "together": 1} | change
    with pytest.raises(ValueError, match="robustq native kernel"):
        backend.native.make_lists(*arguments.values())
