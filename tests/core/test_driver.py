"""The driver: dropping, batches and order change nothing; what is claimed is verified; the model is left alone."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustq.core.attacks.attack import Attack, Key, State
from robustq.core.attacks.norms import NORMS
from robustq.core.attacks.pgd import Ifgsm, Pgd
from robustq.core.driver import AttackResult, perturb
from robustq.core.errors import ArchitectureError, DataError, OptionError, VerificationError, WeightError

N, SHAPE, CLASSES = 60, (1, 6, 6), 4


class Small(nn.Module):
    """A convolutional network with batch norm and dropout: both must be in evaluation mode."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6 * 36, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))


@pytest.fixture(scope="module")
def model() -> Small:
    return Small()


@pytest.fixture(scope="module")
def data(model: Small) -> tuple[Tensor, Tensor]:
    """Images and labels, of which the model has most right."""
    x = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    y[::7] = (y[::7] + 1) % CLASSES
    return x, y


ATTACK = Pgd(eps=0.04, steps=8, restarts=2)


def attack(model: Any, data: tuple[Tensor, Tensor], attack: Attack = ATTACK, **settings: Any) -> AttackResult:
    return perturb(attack, model, *data, **settings)


def test_result_is_what_it_says(model: Small, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    found = attack(model, data)
    with torch.no_grad():
        clean, after = model.eval()(x).argmax(1), model(found.adversarial).argmax(1)
    assert torch.equal(found.clean_correct, clean == y)
    assert torch.equal(found.predictions, after)
    assert torch.equal(found.fooled, (after != y) & found.clean_correct)
    assert torch.equal(found.robust, (after == y) & found.clean_correct)
    assert 0 < found.robust.sum() < found.clean_correct.sum()
    assert torch.equal(found.adversarial[~found.clean_correct], x[~found.clean_correct])
    assert torch.allclose(found.norms, (found.adversarial - x).abs().amax((1, 2, 3)))
    assert found.norms.max() <= 0.04 + 1e-6
    assert torch.equal(found.first_step >= 0, found.fooled)
    assert found.first_step.max() <= 8
    assert not found.randomized


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("batch", [3, 16])
def test_batches_and_dropping_change_nothing(model: Small, data: tuple[Tensor, Tensor], batch: int, norm: str) -> None:
    which = Pgd(eps={"linf": 0.04, "l2": 0.2, "l1": 0.8}[norm], norm=norm, steps=8, restarts=2)
    whole = attack(model, data, which, drop=False, micro_batch=N)
    parts = attack(model, data, which, micro_batch=batch)
    assert torch.equal(parts.fooled, whole.fooled)
    assert torch.equal(parts.first_step, whole.first_step)
    assert torch.allclose(parts.adversarial, whole.adversarial, atol=1e-4)
    assert parts.backwards < whole.backwards


def test_order_changes_nothing(model: Small, data: tuple[Tensor, Tensor]) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    whole, mixed = attack(model, data), perturb(ATTACK, model, data[0][order], data[1][order], index=order)
    assert torch.equal(mixed.fooled, whole.fooled[order])
    assert torch.allclose(mixed.adversarial, whole.adversarial[order], atol=1e-4)


def test_equal_seeds_give_equal_bits_and_others_do_not(model: Small, data: tuple[Tensor, Tensor]) -> None:
    one, same, other = (attack(model, data, seed=seed).adversarial for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_counts_by_hand() -> None:
    # Two classes, nothing can be fooled: 4 clean + 4 images x 3 steps x 2 starts + 2 verifications of 4.
    found = perturb(
        Pgd(eps=0.01, steps=3, restarts=2), _Threshold(), torch.full((4, *SHAPE), 0.9), torch.ones(4).long(),
        randomized=False, micro_batch=2,
    )  # fmt: skip
    assert (found.backwards, found.forwards) == (24, 4 + 24 + 8)
    assert found.robust.all()
    known = perturb(
        Pgd(eps=0.01, steps=3), _Threshold(), torch.full((4, *SHAPE), 0.9), torch.ones(4).long(),
        randomized=False, micro_batch=2, predictions=torch.tensor([1, 1, 0, 1]),
    )  # fmt: skip
    assert (known.backwards, known.forwards) == (9, 9 + 3)
    assert known.clean_correct.tolist() == [True, True, False, True]


def test_fooled_images_leave_at_once_and_are_replaced() -> None:
    sizes: list[int] = []

    def net(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return _Threshold()(x)

    # Images at 0.55 fall in the second step of 0.03; those at 0.9 survive all five.
    x = torch.tensor([0.55] * 6 + [0.9] * 6).view(12, 1, 1, 1).expand(12, *SHAPE).clone()
    y = torch.ones(12).long()
    found = perturb(Ifgsm(eps=0.15, step=0.03, steps=5), net, x, y, randomized=False, micro_batch=4, predictions=y)
    assert found.fooled.tolist() == [True] * 6 + [False] * 6
    assert found.first_step.tolist() == [2] * 6 + [-1] * 6
    assert found.backwards == 6 * 3 + 6 * 5
    assert max(sizes) == 4
    # Pairs of the second kind enter after 3, 6 and 8 gradients and take 5 each; then 12 images are verified.
    assert len(sizes) == 13 + 12 // 4


def test_radius_zero_leaves_accuracy_as_it_is(model: Small, data: tuple[Tensor, Tensor]) -> None:
    found = attack(model, data, Pgd(eps=0.0, steps=2))
    assert torch.equal(found.robust, found.clean_correct)


def test_robustness_falls_with_the_radius(model: Small, data: tuple[Tensor, Tensor]) -> None:
    robust = [int(attack(model, data, Pgd(eps=eps, steps=10)).robust.sum()) for eps in (0.0, 0.02, 0.05, 0.1, 0.5)]
    assert robust == sorted(robust, reverse=True)
    assert robust[-1] == 0


def test_targeted_is_no_stronger_and_is_judged_by_any_error(model: Small, data: tuple[Tensor, Tensor]) -> None:
    found = attack(model, data, Pgd(eps=0.04, steps=8, targeted=True))
    assert attack(model, data).robust.sum() <= found.robust.sum() < found.clean_correct.sum()
    assert torch.equal(found.fooled, found.clean_correct & (found.predictions != data[1]))


def test_model_is_left_as_it_was_found(data: tuple[Tensor, Tensor]) -> None:
    model = Small().train()
    model.drop.eval()
    model.head.weight.requires_grad_(False)
    before = {name: (value.clone(), value.stride(), value.data_ptr()) for name, value in model.state_dict().items()}
    attack(model, data)
    assert (model.training, model.norm.training, model.drop.training) == (True, True, False)
    assert [p.requires_grad for p in model.head.parameters()] == [False, True]
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert (value.stride(), value.data_ptr()) == before[name][1:]


def test_interrupted_model_is_left_as_it_was_found(data: tuple[Tensor, Tensor]) -> None:
    model = Small().train()
    stride = model.conv.weight.stride()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack(model, data, progress=stop)
    assert model.training
    assert model.conv.weight.requires_grad
    assert model.conv.weight.stride() == stride


@pytest.mark.parametrize("drop", [True, False])
def test_progress_rises_to_the_whole(model: Small, data: tuple[Tensor, Tensor], drop: bool) -> None:
    seen: list[tuple[int, int]] = []
    found = attack(model, data, micro_batch=16, drop=drop, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == int(found.clean_correct.sum()) * 16


def test_no_images_give_an_empty_result(model: Small) -> None:
    found = perturb(ATTACK, model, torch.zeros(0, *SHAPE), torch.zeros(0, dtype=torch.long))
    assert (len(found.adversarial), len(found.robust), found.backwards) == (0, 0, 0)


class _Threshold(nn.Module):
    """Class 1 where the mean is above a half."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


class _Rounded(nn.Module):
    """The same with the pixels rounded to black or white: no gradient at all, or a zero one."""

    def __init__(self, hard: bool) -> None:
        super().__init__()
        self.hard = hard

    def forward(self, x: Tensor) -> Tensor:
        return _Threshold()((x > 0.5).float() if self.hard else x.round())


@pytest.mark.parametrize("hard", [True, False])
def test_masked_gradients_are_counted_not_fatal(hard: bool) -> None:
    x = torch.full((5, *SHAPE), 0.56)
    found = perturb(Pgd(eps=0.05), _Rounded(hard), x, torch.ones(5, dtype=torch.long))
    assert found.zero_gradient == 5
    assert found.robust.all()


class _Noisy(nn.Module):
    """Class 1 in all but a share of the passes, whatever the image."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        sign = torch.where(torch.rand(len(x), 1) < self.error, -1.0, 1.0)
        return torch.cat([-sign, sign], 1) + 1e-3 * x.flatten(1)[:, :1]


def test_randomized_models_are_not_judged_by_one_unlucky_draw() -> None:
    torch.manual_seed(0)
    found = perturb(Pgd(eps=0.1, steps=20), _Noisy(0.05), torch.rand(40, *SHAPE), torch.ones(40, dtype=torch.long))
    assert found.randomized
    assert found.robust.all()  # dropping at the first wrong answer would have taken nearly all of them


def test_averaged_passes_change_nothing_on_a_deterministic_model(model: Small, data: tuple[Tensor, Tensor]) -> None:
    plain = attack(model, data, Pgd(eps=0.04, steps=5))
    mean = attack(model, data, Pgd(eps=0.04, steps=5, eot=2))
    assert torch.equal(mean.adversarial, plain.adversarial)
    assert mean.backwards == 2 * plain.backwards


def test_averaged_passes_find_the_gradient_under_the_noise() -> None:
    class Loud(nn.Module):
        """A margin that falls along every pixel, under noise of far steeper slopes."""

        def forward(self, x: Tensor) -> Tensor:
            slopes = 1 + 5 * torch.randn_like(x)
            margin = ((x - 0.5) * slopes).flatten(1).mean(1)
            return torch.stack([-margin, margin], 1)

    x, y = torch.full((10, *SHAPE), 0.9), torch.ones(10, dtype=torch.long)
    torch.manual_seed(0)
    moved = [
        float((x - perturb(Ifgsm(eps=0.1, steps=1, step=0.1, eot=n), Loud(), x, y, predictions=y).adversarial).mean())
        for n in (1, 200)
    ]
    assert moved[0] < 0.05
    assert moved[1] > 0.09


@dataclass(frozen=True, kw_only=True)
class _Cheat(Attack):
    """Goes where it likes."""

    to: float = 0.0

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        return {"x": x}

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        return {"x": torch.full_like(state["x"], self.to)}


@pytest.mark.parametrize(("eps", "to"), [(0.3, 0.2), (2.0, -0.1), (2.0, 1.1)])
def test_points_outside_ball_or_box_are_never_reported(eps: float, to: float) -> None:
    x, y = torch.full((3, *SHAPE), 0.9), torch.ones(3, dtype=torch.long)
    with pytest.raises(VerificationError, match="_Cheat gave a perturbation"):
        perturb(_Cheat(eps=eps, to=to), _Threshold(), x, y)


def test_claims_that_do_not_hold_up_are_counted_and_not_claimed() -> None:
    class Forgetful(nn.Module):
        """Wrong while gradients are wanted, right when asked again."""

        def forward(self, x: Tensor) -> Tensor:
            return _Threshold()(x) * (-1.0 if x.requires_grad else 1.0)

    found = perturb(Pgd(eps=0.01), Forgetful(), torch.full((3, *SHAPE), 0.9), torch.ones(3, dtype=torch.long))
    assert found.unconfirmed == 3
    assert found.robust.all()
    assert (found.first_step == -1).all()


IMAGES, LABELS = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("x", "y", "found"),
    [
        (IMAGES * 255, LABELS, r"outside \[0, 1\]"),
        (IMAGES - 0.5, LABELS, r"outside \[0, 1\]"),
        (IMAGES * float("nan"), LABELS, r"outside \[0, 1\]"),
        (IMAGES[0], LABELS, "do not fit"),
        (IMAGES, LABELS[:2], "do not fit"),
        ((255 * IMAGES).byte(), LABELS, "do not fit"),
        (IMAGES, LABELS.float(), "do not fit"),
        (IMAGES, LABELS + 1, "the model has 2 classes"),
        (IMAGES, LABELS - 1, "the model has 2 classes"),
    ],
)
def test_wrong_data_is_refused(x: Tensor, y: Tensor, found: str) -> None:
    with pytest.raises(DataError, match=found):
        perturb(ATTACK, _Threshold(), x, y)


def _constant(*shape: int, value: float = 0.0) -> Any:
    return lambda x: torch.full((len(x), *shape), value) + 0 * x.flatten(1)[:, :1]


@pytest.mark.parametrize(
    ("model", "error", "found"),
    [
        (_constant(2, value=float("nan")), WeightError, "NaN logits"),
        (_constant(1), ArchitectureError, "classifier gives logits"),
        (lambda x: x, ArchitectureError, "classifier gives logits"),
        (lambda x: "cat", ArchitectureError, "gives str"),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), ArchitectureError, "images of 1x6x6"),
    ],
)
def test_wrong_models_are_refused(model: Any, error: type[Exception], found: str) -> None:
    with pytest.raises(error, match=found):
        perturb(ATTACK, model, IMAGES, LABELS)


def test_without_a_radius_nothing_runs() -> None:
    with pytest.raises(OptionError, match="no radius"):
        perturb(Pgd(), _Threshold(), IMAGES, LABELS)


@dataclass(frozen=True, kw_only=True)
class _Walk(Attack):
    """A minimal-norm attack that walks a fixed way, step by step."""

    minimal = True
    way: tuple[float, ...] = ()
    starts: int = 1
    last: float | None = None

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        return {"x": x - self.way[0] / (1 + int(key[-1]))}

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        ahead = torch.tensor((*self.way, self.way[-1]))[state["taken"] + 1]
        return {"x": state["clean"] - ahead.view(-1, 1, 1, 1) / (1 + int(key[-1]))}

    def final(self, state: State, randomized: bool) -> Tensor:
        return state["x"] if self.last is None else state["clean"] - self.last

    @property
    def iterations(self) -> int:
        return len(self.way)

    @property
    def repeats(self) -> int:
        return self.starts


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_minimal_norm_attacks_keep_the_nearest_adversarial(batch: int) -> None:
    # The decision lies at a half: they need 0.1, 0.2, 0.31, 0.45, and the fifth is wrong anyway.
    x = torch.tensor([0.6, 0.7, 0.81, 0.95, 0.3]).view(5, 1, 1, 1).expand(5, *SHAPE).clone()
    y = torch.ones(5).long()
    walk = _Walk(eps=0.2, way=(0.3, 0.12, 0.44, 0.25))
    found = perturb(walk, _Threshold(), x, y, randomized=False, micro_batch=batch)
    assert found.minimal_norms is not None
    assert found.minimal_norms.tolist() == pytest.approx([0.12, 0.25, 0.44, float("inf"), 0.0], abs=1e-6)
    assert found.fooled.tolist() == [True, False, False, False, False]  # within the radius alone
    assert found.first_step.tolist() == [1, -1, -1, -1, -1]
    assert torch.allclose(found.norms[:3], found.minimal_norms[:3])
    assert found.predictions.tolist() == [0, 0, 0, 1, 0]
    assert torch.equal(found.adversarial[4], x[4])
    assert found.backwards == 4 * 4  # nobody leaves at a success


def test_a_later_start_and_the_last_point_may_be_nearer_but_never_worse() -> None:
    x = torch.tensor([0.6, 0.7]).view(2, 1, 1, 1).expand(2, *SHAPE).clone()
    y = torch.ones(2).long()
    walk = _Walk(eps=0.1, way=(0.3, 0.26), starts=2)  # the second start walks half as far: 0.15, 0.13
    found = perturb(walk, _Threshold(), x, y, randomized=False)
    assert found.minimal_norms is not None
    assert found.minimal_norms.tolist() == pytest.approx([0.13, 0.26], abs=1e-6)
    assert found.predictions.tolist() == [0, 0]
    handed = perturb(_Walk(eps=0.1, way=(0.3, 0.26), last=0.11), _Threshold(), x, y, randomized=False)
    assert handed.minimal_norms is not None
    assert handed.minimal_norms.tolist() == pytest.approx([0.11, 0.26], abs=1e-6)


def test_minimal_norm_attacks_stop_where_they_are_finished() -> None:
    class Stops(_Walk):
        def finished(self, state: State, logits: Tensor) -> Tensor:
            return logits.argmax(1) != state["y"]

    x = torch.tensor([0.6, 0.9]).view(2, 1, 1, 1).expand(2, *SHAPE).clone()
    found = perturb(Stops(eps=0.1, way=(0.2, 0.11, 0.3)), _Threshold(), x, torch.ones(2).long(), randomized=False)
    assert found.minimal_norms is not None
    assert found.minimal_norms.tolist() == pytest.approx([0.2, float("inf")], abs=1e-6)
    assert found.backwards == 1 + 3


def test_adversarials_of_minimal_norm_attacks_stay_in_the_box() -> None:
    with pytest.raises(VerificationError, match="pixels from -"):
        perturb(_Walk(eps=0.1, way=(0.95,)), _Threshold(), torch.full((1, *SHAPE), 0.9), torch.ones(1).long())


def test_a_randomized_model_is_not_judged_by_its_unluckiest_verdict() -> None:
    """Noise alone decides: after thirty starts the share of robust images is that of one verdict, not of thirty."""
    x, y = torch.rand(400, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(400, dtype=torch.long)

    def coin(images: Tensor) -> Tensor:
        return torch.stack([torch.full((len(images),), 0.6), torch.randn(len(images))], 1)

    once = perturb(Pgd(eps=0.1, steps=1), coin, x, y, predictions=y, randomized=True)
    often = perturb(Pgd(eps=0.1, steps=1, restarts=30), coin, x, y, predictions=y, randomized=True)
    assert abs(int(often.robust.sum()) - int(once.robust.sum())) < 80


class _Hungry(nn.Module):
    """Needs more memory than there is for more than `most` images at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.sizes = most, set[int]()
        self.inner = _Threshold()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.sizes.add(len(x))
        return self.inner(x)


def test_the_batch_is_halved_until_it_fits() -> None:
    x, y = torch.full((100, *SHAPE), 0.55), torch.ones(100, dtype=torch.long)
    model = _Hungry(20)
    found = perturb(Pgd(eps=0.1, steps=3), model, x, y, randomized=False, fitted=100)
    assert found.fooled.all()
    assert found.batch == 12
    assert max(model.sizes) == 12
    assert found.forwards == 2 * 100 + found.backwards  # of the attempt that fitted alone


@pytest.mark.parametrize(("most", "asked", "message"), [(20, 64, "64 images at a time"), (0, None, "1 images")])
def test_a_batch_that_does_not_fit_is_refused(most: int, asked: int | None, message: str) -> None:
    x, y = torch.full((100, *SHAPE), 0.55), torch.ones(100, dtype=torch.long)
    with pytest.raises(OptionError, match=message):
        perturb(Pgd(eps=0.1), _Hungry(most), x, y, randomized=False, micro_batch=asked, fitted=100)


def test_margins_say_how_narrowly_an_image_was_decided() -> None:
    # Logits differ by 2 (mean - 0.5); without a step, images are judged where they lie.
    x = torch.tensor([0.9, 0.50002, 0.3, 0.50002]).view(4, 1, 1, 1).expand(4, *SHAPE).clone()
    y = torch.tensor([1, 1, 1, 1])
    found = perturb(Pgd(eps=0.0, steps=1), _Threshold(), x, y, randomized=False)
    assert torch.allclose(found.margins, torch.tensor([0.8, 4e-5, torch.inf, 4e-5]), atol=2e-6)
    assert found.close == 2
    noisy = perturb(Pgd(eps=0.0, steps=1), _Noisy(0.01), x, y, randomized=True, predictions=y)
    assert noisy.margins.isinf().all()


@pytest.mark.parametrize("drop", [True, False])
def test_what_nearly_always_fools_a_randomized_model_is_dropped(drop: bool) -> None:
    class Fragile(nn.Module):
        """Right on the images; after any step wrong in all but one of a thousand passes."""

        def forward(self, x: Tensor) -> Tensor:
            moved = x.flatten(1).mean(1) < 0.9
            wrong = moved & (torch.rand(len(x)) > 0.001)
            sign = torch.where(wrong, -1.0, 1.0) + 1e-3 * x.flatten(1).mean(1)
            return torch.stack([-sign, sign], 1)

    x, y = torch.full((8, *SHAPE), 0.95), torch.ones(8, dtype=torch.long)
    attack = Ifgsm(eps=0.1, step=0.06, steps=30)
    one, same = (perturb(attack, Fragile(), x, y, randomized=True, drop=drop, seed=1) for _ in range(2))
    assert one.fooled.all()
    assert torch.equal(one.adversarial, same.adversarial)  # what it draws is keyed by the seed
    assert (one.backwards < 8 * 10) == drop
