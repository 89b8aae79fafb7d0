"""The ops against float64, on every instruction set this machine offers; refusals; autograd and torch.compile."""

import multiprocessing
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from robustq.kernels import backend, ops, reference

ISAS = list(backend.native.available()) if backend.native else []
RUNNERS = ["reference", *ISAS]


@pytest.fixture(params=RUNNERS)
def linear(request: pytest.FixtureRequest) -> Iterator[Callable[..., Tensor]]:
    """`ternary_linear` on the reference and on each instruction set."""
    if request.param == "reference":
        yield reference.ternary_linear
        return
    before = backend.native.isa()
    backend.native.use(request.param)
    yield ops.ternary_linear
    backend.native.use(before)


def case(rows: int, out: int, columns: int, scale_rows: int, groups: int, seed: int = 0) -> tuple[Tensor, ...]:
    """x, codes, scale, bias: Gaussian x, uniform codes, scales of one size."""
    rng = torch.Generator().manual_seed(seed)
    codes = torch.randint(-1, 2, (out, columns), generator=rng).to(torch.int8)
    scale = torch.rand(scale_rows, groups, generator=rng) + 0.5
    return torch.randn(rows, columns, generator=rng), codes, scale, torch.randn(out, generator=rng)


def dense64(codes: Tensor, scale: Tensor) -> Tensor:
    """codes * scale in float64, one group at a time (nothing of the kernels is used)."""
    groups = scale.shape[1]
    width = -(-codes.shape[1] // groups)
    weight = codes.double().clone()
    for group in range(groups):
        weight[:, group * width : (group + 1) * width] *= scale[:, group : group + 1].double()
    return weight


def error(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 1),
        (1, 10, 84, 10, 1),
        (3, 17, 33, 17, 1),
        (12, 130, 1030, 130, 7),  # groups end inside words and pieces
        (13, 40, 600, 1, 5),
        (16, 64, 576, 1, 1),
        (7, 20, 16, 20, 16),  # a scale for each weight
        (5, 33, 10, 33, 6),  # ceil(10 / 6) = 2: the sixth group is empty
        (250, 200, 100, 200, 1),  # more rows than one panel
        (1, 256, 64, 1, 1),  # enough outputs for tables of two columns
        (5, 300, 530, 300, 1),  # a last block that is not full, columns beyond the last word and the last piece
        (100, 270, 600, 1, 3),  # groups of 200 columns: no whole words
        (50, 290, 650, 290, 4),  # groups of 163, and rows beyond the panel
        (13, 260, 640, 260, 5),
        (7, 333, 500, 1, 2),
    ],
)
def test_linear_agrees_with_float64(linear: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    x, codes, scale, bias = case(*shape)
    y = linear(x, reference.pack(codes), scale, bias, *codes.shape)
    assert y.dtype == torch.float32
    assert error(y, F.linear(x.double(), dense64(codes, scale), bias.double())) <= 1e-5


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 70), st.integers(1, 90), st.booleans(), st.data())
def test_any_size_and_grouping(rows: int, out: int, columns: int, per_row: bool, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, columns))
    x, codes, scale, _ = case(rows, out, columns, out if per_row else 1, groups, seed=data.draw(st.integers(0, 99)))
    packed, weight = reference.pack(codes), dense64(codes, scale)
    exact = F.linear(x.double(), weight)
    bound = 1e-5 * float(F.linear(x.double().abs(), weight.abs()).max()) + 1e-30
    assert torch.equal(reference.unpack(packed, out, columns), codes)
    assert torch.equal(ops.ternary_dense(packed, scale, out, columns).double(), weight)
    for run in (ops.ternary_linear, reference.ternary_linear):
        assert float((run(x, packed, scale, None, out, columns).double() - exact).abs().max()) <= bound


@pytest.mark.parametrize("rows", [3, 4, 17, 33, 64, 70])  # by tiles and by the shapes of a matrix unit
def test_small_values_beside_large_ones(linear: Callable[..., Tensor], rows: int) -> None:
    x, codes, scale, _ = case(rows, 70, 75, 70, 1)
    x *= 10.0 ** torch.linspace(-4, 1, 75)
    x[:, 7] = 3e3
    x[0] *= 1e33
    x[1] *= 1e-28
    x[2] = 0
    codes[3:] *= torch.arange(75) != 7  # outputs that do not see the large value have as good sums without it
    weight = dense64(codes, scale)
    wrong = (linear(x, reference.pack(codes), scale, None, 70, 75).double() - F.linear(x.double(), weight)).abs()
    share = 80 * 2.0**-24 * F.linear(x.double().abs(), weight.abs())
    assert bool((wrong <= share + 2.0**-38 * x.double().abs().amax(1, keepdim=True) + 1e-36).all())


def test_special_values_and_the_forbidden_code(linear: Callable[..., Tensor]) -> None:
    x, codes, scale, _ = case(2, 320, 192, 1, 1)
    x[1, 7] = torch.inf
    packed = reference.pack(codes)
    packed[5, 3, 2] = 0b10 << 8  # output 82, column 52, and zeros around it
    y = linear(x, packed, scale, None, 320, 192)
    assert y[0].isnan().nonzero().flatten().tolist() == [82]
    wanted = F.linear(x[1].double(), dense64(codes, scale))
    kept = torch.arange(320) != 82
    assert torch.equal(y[1].isnan()[kept], wanted.isnan()[kept])
    assert torch.equal(y[1][kept & ~wanted.isnan()].double(), wanted[kept & ~wanted.isnan()])


@pytest.mark.parametrize("isa", ISAS)
def test_dense_is_bit_exact(isa: str) -> None:
    before = backend.native.isa()
    backend.native.use(isa)
    for shape in [(1, 5, 1, 5, 1), (1, 19, 77, 19, 9), (1, 3, 64, 1, 2)]:
        _, codes, scale, _ = case(*shape)
        packed = reference.pack(codes)
        native = ops.ternary_dense(packed, scale, *codes.shape)
        assert torch.equal(native, reference.ternary_dense(packed, scale, *codes.shape)), shape
    backend.native.use(before)


def test_packing_by_hand() -> None:
    codes = torch.zeros(2, 18, dtype=torch.int8)
    codes[0, 0], codes[0, 1], codes[0, 15], codes[1, 17] = 1, -1, -1, 1
    packed = reference.pack(codes)
    assert packed.shape == (1, 2, 16)
    assert packed[0, 0, 0].item() == (0b01 | 0b11 << 2 | 0b11 << 30) - 2**32
    assert packed[0, 1, 1].item() == 0b01 << 2
    assert int((packed != 0).sum()) == 2


@pytest.mark.skipif(not ISAS, reason="the native module is not built")
def test_threads_do_not_change_a_bit() -> None:
    before = torch.get_num_threads()
    for shape in [(300, 16, 4000, 16, 1), (1, 6000, 6000, 1, 1), (64, 512, 1500, 512, 3), (90, 4000, 260, 1, 1)]:
        x, codes, scale, bias = case(*shape)
        packed = reference.pack(codes)
        answers = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            answers.append(ops.ternary_linear(x, packed, scale, bias, *codes.shape))
        torch.set_num_threads(before)
        # The rows of a tile may differ with the partition, the order of each sum may not.
        assert torch.equal(*answers), shape


def in_child(queue: "multiprocessing.Queue[float]") -> None:
    x, codes, scale, bias = case(64, 512, 1500, 512, 1)
    y = ops.ternary_linear(x, reference.pack(codes), scale, bias, *codes.shape)
    queue.put(error(y, F.linear(x.double(), dense64(codes, scale), bias.double())))


@pytest.mark.skipif(not ISAS, reason="the native module is not built")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12; what is being tested
def test_works_after_a_fork() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    x, codes, scale, bias = case(64, 512, 1500, 512, 1)
    ops.ternary_linear(x, reference.pack(codes), scale, bias, *codes.shape)
    torch.set_num_threads(1)  # torch's own pool does not survive a fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) <= 1e-5
    child.join()
    torch.set_num_threads(before)


def test_strided_and_empty_inputs(linear: Callable[..., Tensor]) -> None:
    x, codes, scale, bias = case(24, 20, 40, 20, 2)
    packed, exact = reference.pack(codes), F.linear(x.double(), dense64(codes, scale), bias.double())
    strided = torch.stack([x, x], dim=-1)[..., 0]
    columns = x.T.contiguous().T
    loose = torch.stack([packed, packed], dim=-1)[..., 1]
    for given_x, given_packed in [(strided, packed), (columns, packed), (x, loose)]:
        assert error(linear(given_x, given_packed, scale, bias, 20, 40), exact) <= 1e-5
    assert linear(x.view(2, 3, 4, 40), packed, scale.T.contiguous().T, bias, 20, 40).shape == (2, 3, 4, 20)
    assert linear(x[0], packed, scale, bias, 20, 40).shape == (20,)
    assert linear(x[:0], packed, scale, bias, 20, 40).shape == (0, 20)
    assert linear(x.view(24, 1, 40)[:, :0], packed, scale, None, 20, 40).shape == (24, 0, 20)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(linear: Callable[..., Tensor], dtype: torch.dtype) -> None:
    x, codes, scale, bias = case(9, 30, 50, 30, 1)
    x = x.to(dtype)
    y = linear(x, reference.pack(codes), scale, bias, 30, 50)
    assert y.dtype == dtype
    exact = F.linear(x.double(), dense64(codes, scale), bias.double())
    assert error(y, exact) <= torch.finfo(dtype).eps + 1e-7 * (dtype != torch.float64)
    assert error(linear(x.double(), reference.pack(codes), scale.to(dtype), None, 30, 50), exact - bias) <= 1e-2


def test_corrupt_codes_show(linear: Callable[..., Tensor]) -> None:
    x, codes, scale, _ = case(4, 20, 40, 20, 1)
    packed = reference.pack(codes)
    packed[0, 1, 3] = packed[0, 1, 3] & ~0b11 | 0b10  # row 3, column 16
    y = linear(x, packed, scale, None, 20, 40)
    assert y[:, 3].isnan().all()
    assert int(y.isnan().sum()) == 4
    with pytest.raises(ValueError, match="1 of 800 packed codes"):
        reference.unpack(packed, 20, 40)


def test_nan_and_infinity_go_through(linear: Callable[..., Tensor]) -> None:
    x, codes, scale, _ = case(2, 5, 20, 1, 1)
    codes[:, 7] = 1
    x[0, 7], x[1, 7] = float("inf"), float("nan")
    y = linear(x, reference.pack(codes), scale, None, 5, 20)
    assert (y[0] == float("inf")).all()
    assert y[1].isnan().all()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"x": torch.zeros(3, 41)}, ValueError, r"must be 40, found shape \(3, 41\)"),
        ({"x": torch.tensor(1.0)}, ValueError, r"must be 40, found shape \(\)"),
        ({"x": torch.zeros(3, 40, dtype=torch.int32)}, TypeError, "x must be floating, found torch.int32"),
        ({"x": torch.zeros(3, 40, dtype=torch.complex64)}, TypeError, "found torch.complex64"),
        ({"packed": torch.zeros(2, 3, 16)}, TypeError, "must be int32, found torch.float32"),
        ({"packed": torch.zeros(2, 2, 16, dtype=torch.int32)}, ValueError, r"\(2, 3, 16\), found \(2, 2, 16\)"),
        ({"packed": torch.zeros(0, dtype=torch.int32)}, ValueError, r"found \(0,\)"),
        ({"scale": torch.ones(3, 1)}, ValueError, r"found shape \(3, 1\)"),
        ({"scale": torch.ones(20)}, ValueError, r"found shape \(20,\)"),
        ({"scale": torch.ones(20, 0)}, ValueError, r"found shape \(20, 0\)"),
        ({"scale": torch.ones(20, 41)}, ValueError, r"found shape \(20, 41\)"),
        ({"scale": torch.ones(20, 1, dtype=torch.int64)}, TypeError, "found torch.int64"),
        ({"bias": torch.ones(19)}, ValueError, r"shape \(20,\), found \(19,\)"),
        ({"bias": torch.ones(20, dtype=torch.bool)}, TypeError, "found torch.bool"),
        ({"out_features": 0}, ValueError, "found 0 and 40"),
        ({"in_features": -40}, ValueError, "found 20 and -40"),
        ({"out_features": 2**40}, ValueError, "1099511627776"),
    ],
)
def test_wrong_arguments_are_refused(
    linear: Callable[..., Tensor], change: dict[str, object], kind: type[Exception], message: str
) -> None:
    x, codes, scale, bias = case(3, 20, 40, 20, 1)
    arguments: dict[str, object] = {
        "x": x,
        "packed": reference.pack(codes),
        "scale": scale,
        "bias": bias,
        "out_features": 20,
        "in_features": 40,
    }
    with pytest.raises(kind, match=message):
        linear(**{**arguments, **change})


def test_wrong_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="values from 0 to 2"):
        reference.pack(torch.tensor([[0, 1, 2]], dtype=torch.int8))
    with pytest.raises(ValueError, match="values from -128 to 1"):
        reference.pack(torch.tensor([[-128, 1]], dtype=torch.int8))
    with pytest.raises(TypeError, match=r"int8 of 2 dimensions, found torch\.int64"):
        reference.pack(torch.tensor([[0, 1]]))


@pytest.mark.skipif(not ISAS, reason="the native module is not built")
def test_native_functions_check_their_numbers() -> None:
    with pytest.raises(ValueError, match="out_features = 0"):
        backend.native.dense(64, 64, 1, 1, 64, 0, 5)
    with pytest.raises(ValueError, match="groups = 6"):
        backend.native.dense(64, 64, 1, 6, 64, 3, 5)
    with pytest.raises(ValueError, match="packed codes = 0"):
        backend.native.dense(0, 64, 1, 1, 64, 3, 5)
    with pytest.raises(ValueError, match="rows = -1"):
        backend.native.linear(64, -1, 64, 64, 1, 1, 0, 3, 5, 64, 1)
    with pytest.raises(ValueError, match="'mmx'"):
        backend.native.use("mmx")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype: torch.dtype) -> None:
    x, codes, scale, bias = (t.to(dtype) if t.is_floating_point() else t for t in case(5, 20, 40, 20, 3))
    floats = [t.requires_grad_() for t in (x, scale, bias)]
    packed = reference.pack(codes)
    torch.library.opcheck(torch.ops.robustq.ternary_linear, (floats[0], packed, floats[1], floats[2], 20, 40))
    torch.library.opcheck(torch.ops.robustq.ternary_linear, (floats[0], packed, floats[1], None, 20, 40))
    torch.library.opcheck(torch.ops.robustq.ternary_dense, (packed, floats[1], 20, 40))


@pytest.mark.parametrize(("scale_rows", "groups"), [(6, 1), (1, 1), (6, 4), (1, 3)])
def test_gradients(scale_rows: int, groups: int) -> None:
    x, codes, scale, bias = case(3, 6, 10, scale_rows, groups)
    packed = reference.pack(codes)
    floats = tuple(t.double().requires_grad_() for t in (x, scale, bias))
    assert torch.autograd.gradcheck(lambda x, s, b: ops.ternary_linear(x, packed, s, b, 6, 10), floats)
    assert torch.autograd.gradgradcheck(lambda x, s, b: ops.ternary_linear(x, packed, s, b, 6, 10), floats)
    assert torch.autograd.gradcheck(lambda s: ops.ternary_dense(packed, s, 6, 10), floats[1])


def test_gradient_in_float32_is_that_of_the_dequantized_layer() -> None:
    x, codes, scale, bias = case(33, 70, 90, 70, 1)
    packed = reference.pack(codes)
    ours, twin = x.clone().requires_grad_(), x.clone().requires_grad_()
    ops.ternary_linear(ours, packed, scale, bias, 70, 90).square().sum().backward()
    F.linear(twin, dense64(codes, scale).float(), bias).square().sum().backward()
    assert ours.grad is not None
    assert twin.grad is not None
    assert error(ours.grad, twin.grad.double()) <= 1e-5


def test_compiles_without_a_graph_break() -> None:
    x, codes, scale, bias = case(6, 20, 40, 20, 2)
    packed = reference.pack(codes)

    def loss(x: Tensor) -> Tensor:
        return ops.ternary_linear(F.relu(x), packed, scale, bias, 20, 40).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = []
    for run in (loss, compiled):
        leaf = x.clone().requires_grad_()
        run(leaf).backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)
