"""The attack driver: batches with refill, dropping of fooled images, restarts, counts, and the final verification.

Dropping a fooled image cannot change the result of a deterministic model: in evaluation mode no image sees another.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import registry
from .attacks.attack import Attack, Key, State, begin
from .attacks.norms import NORMS, is_zero
from .errors import VerificationError
from .inference import (
    DRAWS,
    PROBE_IMAGES,
    Net,
    Victim,
    channels_last,
    check_inputs,
    device_of,
    fitting_batch,
    frozen,
    is_randomized,
)
from .straight_through import rounds, straight_through

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes), y (n,) -> (n,)
Done = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes), y (n,) -> (n,) bool
Progress = Callable[[int, int], None]  # image steps done, image steps in all
MASKED = 0.01  # share of attacked images without a gradient from which on something is wrong with the gradient
_TOLERANCE = 1e-6  # of the norm of a perturbation


@dataclass(frozen=True)
class AttackResult:
    """What an attack did to n images. An image is robust if it was classified correctly and not fooled.

    adversarial (n, c, h, w) in [0, 1]: where fooled the adversarial image, where robust the last point that was tried,
        where the model was wrong anyway the image itself
    fooled, clean_correct (n,) bool; an image that was wrong anyway is not fooled
    predictions (n,) int64 on `adversarial`; norms (n,) float32 of the perturbations in the attack's norm
    first_step (n,) int64: after how many steps of its start an image was first fooled, -1 where it was not
    forwards, backwards: images that went through the model, and back
    unconfirmed: images that were fooled during the attack but not when verified, and count as robust
    zero_gradient: attacked images whose first gradient was exactly zero or not finite
    through_rounding: whether the attack went on with straight-through gradients, because the model rounds
    survivors: how many images each member of an ensemble left robust
    """

    adversarial: Tensor
    fooled: Tensor
    clean_correct: Tensor
    predictions: Tensor
    norms: Tensor
    first_step: Tensor
    forwards: int
    backwards: int
    unconfirmed: int
    zero_gradient: int
    randomized: bool
    seconds: float
    through_rounding: bool = False
    survivors: dict[str, int] = field(default_factory=dict)

    @property
    def robust(self) -> Tensor:
        """(n,) bool: classified correctly, and not fooled."""
        return self.clean_correct & ~self.fooled


def craft(
    attack: Attack,
    model: Net,
    x: Tensor,
    y: Tensor,
    key: Key,
    index: Tensor,
    loss: Loss | None = None,
    *,
    start: Tensor | None = None,
    done: Done | None = None,
) -> Tensor:
    """x (n, c, h, w) in [0, 1], y (n,) -> adversarial images, detached: the inner attack of training.

    All steps of one start for all images. The model is called as it is: train or eval mode is the caller's choice,
    and no weight gradient is computed. Draws depend on key and index (n,) alone. `loss` replaces the attack's own,
    `start` (n, c, h, w) its first points; an image for which `done` holds at a point stays there.
    """
    with torch.no_grad():
        state = begin(attack, x.detach(), y, key, index, model(x) if attack.sees_answers else None)
    if start is not None:
        state = state | {"x": start}
    for _ in range(attack.iterations):
        logits, grad, value = gradient(attack, model, state, loss)
        later = advance(attack, state, logits, grad, value, key)
        state = later if done is None else _held(state, later, done(logits, y))
    return state["x"]


def _held(state: State, later: State, held: Tensor) -> State:
    """The later state, except for the images that are `held` (n,): they keep what they had."""
    return {
        name: torch.where(held.view(-1, *[1] * (new.dim() - 1)), state[name], new) if name in state else new
        for name, new in later.items()
    }


def gradient(attack: Attack, model: Net, state: State, loss: Loss | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, classes) at state["x"], the gradient of the objective there, and its values (n,).

    Means over as many passes as the attack averages (expectation over transformation, Athalye et al. 2018).
    The gradient is zero where there is none or it is not finite, and (n, 0) for attacks that use none.
    """
    logits, grad, value = _one_pass(attack, model, state, loss)
    for _ in range(attack.eot - 1):
        again = _one_pass(attack, model, state, loss)
        logits, grad, value = logits + again[0], grad + again[1], value + again[2]
    return (logits, grad, value) if attack.eot == 1 else (logits / attack.eot, grad / attack.eot, value / attack.eot)


def _one_pass(attack: Attack, model: Net, state: State, loss: Loss | None) -> tuple[Tensor, Tensor, Tensor]:
    with torch.set_grad_enabled(attack.uses_gradient):
        x = state["x"].detach().requires_grad_(attack.uses_gradient)
        logits = model(x)
        value = loss(logits, state["y"]) if loss else attack.objective(state, logits)
        if not attack.uses_gradient:
            return logits, x.new_zeros(len(x), 0), value
        # A model that thresholds its input has no path back to it: None, as good as zero.
        found = torch.autograd.grad(value.sum(), x, allow_unused=True)[0] if value.requires_grad else None
    grad = torch.zeros_like(state["x"]) if found is None else found
    return logits.detach(), grad if grad.sum().isfinite() else grad.nan_to_num(0.0, 0.0, 0.0), value.detach()


def advance(attack: Attack, state: State, logits: Tensor, grad: Tensor, value: Tensor, key: Key) -> State:
    """The state one step later."""
    return state | attack.update(state | {"value": value}, logits, grad, key) | {"taken": state["taken"] + 1}


def perturb(
    attack: Attack,
    model: Net,
    x: Tensor,
    y: Tensor,
    *,
    index: Tensor | None = None,
    seed: int = 0,
    drop: bool = True,
    micro_batch: int | None = None,
    predictions: Tensor | None = None,
    randomized: bool | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Attack images x (n, c, h, w) in [0, 1] with labels y (n,) int64; the model is left as it was found.

    index (n,) int64: place of each image in its data set (0..n-1 if not given), which with `seed` keys its draws, so
    that results do not depend on batches. drop=False goes on with images that are fooled already: slower, same flags.
    micro_batch: images at a time (None: what fits). predictions (n,) int64: the model's answers for x where they are
    known already. randomized: whether the model draws noise (None: find out). A randomized model is judged by the
    most frequent of its answers in `DRAWS` forward passes, and nothing is dropped on one lucky draw.
    Where more than `MASKED` of the images have no gradient at the first step and the model rounds, the attack starts
    over with straight-through gradients; every claim is verified on the model as it is.
    Raises DataError (images, labels), ArchitectureError, WeightError (NaN), VerificationError (beyond the radius).
    """
    begun, radius = time.perf_counter(), attack.radius
    check_inputs(x, y)
    index = torch.arange(len(x)) if index is None else index.cpu()
    with frozen(model):
        random = bool(len(x) and is_randomized(model, x[:PROBE_IMAGES])) if randomized is None else randomized
        batch = micro_batch or (fitting_batch(model, x[:1]) if len(x) else 1)
        victim = Victim(model, batch, DRAWS if random else 1)
        with channels_last(model):
            clean = victim.answers(x, y) if predictions is None else predictions
        run = _Run(attack.members, victim, x, y, index, clean, drop and not random, progress)
        for place in range(len(run.members)):
            run.follow(place, seed)
    norms = NORMS[attack.norm].size(run.adversarial - x)
    _verify(attack, radius, norms, run.adversarial)
    return AttackResult(
        adversarial=run.adversarial,
        fooled=run.fooled,
        clean_correct=run.correct,
        predictions=run.answers,
        norms=norms,
        first_step=run.first,
        forwards=victim.forwards,
        backwards=victim.backwards,
        unconfirmed=run.unconfirmed,
        zero_gradient=run.zero_gradient,
        randomized=random,
        seconds=time.perf_counter() - begun,
        through_rounding=run.through_rounding,
        survivors=run.survivors if len(attack.members) > 1 else {},
    )


class _Run:
    """Attacks on one set of images: what is known of each image, filled in start by start."""

    def __init__(
        self,
        members: tuple[Attack, ...],
        victim: Victim,
        x: Tensor,
        y: Tensor,
        index: Tensor,
        clean: Tensor,
        drop: bool,
        progress: Progress | None,
    ) -> None:
        self.attack, self.victim, self.x, self.y, self.index = members[0], victim, x, y, index
        self.drop, self.progress = drop, progress
        self.correct = clean == y
        self.adversarial, self.answers = x.clone(), clean.clone()
        self.fooled = torch.zeros_like(self.correct)
        self.first = torch.full_like(y, -1)
        self.unconfirmed = self.zero_gradient = 0
        self.net: Net = victim  # what is differentiated
        self.through_rounding = self.checked = False  # checked: zero gradients have been counted
        self.survivors: dict[str, int] = {}
        sees = any(member.sees_answers for member in members)
        self.clean_logits = self._clean_logits() if sees and self.correct.any() else None
        self.members = [self._fitted(member) for member in members]
        self.total = sum(member.iterations * member.repeats for member in self.members)  # steps of one image
        self.steps = self.past = self.told = 0  # image steps so far; steps of one image in starts that are over

    def follow(self, place: int, seed: int) -> None:
        """All starts of one member, by its place."""
        self.attack = self.members[place]
        name = registry.name_of(self.attack)
        for repeat in range(self.attack.repeats):
            key = (seed, name, repeat)
            self.one_start(key)
            if not self.through_rounding and self._is_masked():
                self.net, self.through_rounding = straight_through(self.victim), True
                self.one_start(key)
            self.past += self.attack.iterations
        self.survivors[name] = int((self.correct & ~self.fooled).sum())

    def _is_masked(self) -> bool:
        """Whether too many images have no gradient, and rounding is what takes it from them."""
        if self.zero_gradient <= MASKED * int(self.correct.sum()):
            return False
        device = device_of(self.victim.model, self.x.device)
        return rounds(self.victim, self.x[:1].to(device))

    def _fitted(self, attack: Attack) -> Attack:
        known = self.clean_logits
        return attack.fitted(known.shape[1]) if attack.sees_answers and known is not None else attack

    def _clean_logits(self) -> Tensor:
        """(n, classes) on the images themselves, zero where the model is wrong anyway."""
        device, rows = device_of(self.victim.model, self.x.device), self.correct.nonzero()[:, 0]
        found = torch.cat([self.victim.logits(self.x[part].to(device)) for part in rows.split(self.victim.batch)])
        whole = found.new_zeros(len(self.x), found.shape[1])
        whole[rows] = found
        return whole

    def one_start(self, key: Key) -> None:
        """Attack what is still robust from one start, then let the model as it is judge every result."""
        rows = (self.correct & ~self.fooled).nonzero()[:, 0]
        if not len(rows):
            return
        attacked = int(self.correct.sum())
        self.steps = attacked * self.past + (attacked - len(rows)) * self.attack.iterations
        with channels_last(self.victim.model):
            self._search(rows, key, count_zeros=self.attack.uses_gradient and not self.checked)
        self.checked |= self.attack.uses_gradient
        answers = self.victim.answers(self.adversarial[rows], self.y[rows])
        wrong, claimed = answers != self.y[rows], self.first[rows] >= 0
        self.unconfirmed += int((claimed & ~wrong).sum())
        first = torch.where(claimed, self.first[rows], self.attack.iterations)
        self.first[rows] = torch.where(wrong, first, -1)
        self.fooled[rows], self.answers[rows] = wrong, answers

    def _search(self, waiting: Tensor, key: Key, count_zeros: bool) -> None:
        """Step the images `waiting` (k,) in batches that are refilled as images leave; fills adversarial and first."""
        batch, state = self.victim.batch, None
        while len(waiting) or state is not None:
            room = batch - (0 if state is None else len(state["y"]))
            if len(waiting) and (state is None or 4 * room >= batch):
                state = _join(state, self._enter(waiting[:room], key))
                waiting = waiting[room:]
            assert state is not None
            logits, grad, value = gradient(self.attack, self.net, state)
            self.victim.backwards += len(grad) * self.attack.eot if self.attack.uses_gradient else 0
            first = state["taken"] == 0
            if count_zeros and first.any():
                self.zero_gradient += int((is_zero(grad) & first).sum())
            stay = self._note_success(state, logits)
            self._tell(int(stay.sum()) + int((self.attack.iterations - state["taken"])[~stay].sum()))
            state, logits, grad, value = _select(state, stay), logits[stay], grad[stay], value[stay]
            if len(logits):
                state = advance(self.attack, state, logits, grad, value, key)
                state = self._retire(state)
            state = state if len(state["y"]) else None

    def _enter(self, rows: Tensor, key: Key) -> State:
        """The state of images that start; `row` is their place in this run."""
        device = device_of(self.victim.model, self.x.device)
        x, y, index = (t[rows].to(device) for t in (self.x, self.y, self.index))
        known = None if self.clean_logits is None else self.clean_logits[rows.to(device)]
        return begin(self.attack, x, y, key, index, known) | {"row": rows.to(device)}

    def _note_success(self, state: State, logits: Tensor) -> Tensor:
        """Keep the first success of each image; (k,) bool: which images go on."""
        everything = torch.ones_like(state["y"], dtype=torch.bool)
        if self.victim.draws > 1:  # one draw of a randomized model proves nothing: its last point is judged
            return everything
        won = self.attack.success(state, logits)
        if won.any():
            rows = state["row"][won].to(self.first.device)
            new = self.first[rows] < 0
            self.adversarial[rows[new]] = state["x"][won].to(self.x.device)[new]
            self.first[rows[new]] = state["taken"][won].to(self.first.device)[new]
        return ~won if self.drop else everything

    def _retire(self, state: State) -> State:
        """Take out the images that have had all their steps; their last point is what is verified."""
        done = state["taken"] >= self.attack.iterations
        if not done.any():
            return state
        rows = state["row"][done].to(self.first.device)
        new = self.first[rows] < 0
        last = self.attack.final(state, self.victim.draws > 1)
        self.adversarial[rows[new]] = last[done].to(self.x.device)[new]
        return _select(state, ~done)

    def _tell(self, steps: int) -> None:
        self.steps += steps
        self.told = max(self.told, self.steps)  # a start that is made again is not told of
        if self.progress:
            self.progress(self.told, int(self.correct.sum()) * self.total)


def _select(state: State, keep: Tensor) -> State:
    return state if keep.all() else {name: values[keep] for name, values in state.items()}


def _join(state: State | None, more: State) -> State:
    return more if state is None else {name: torch.cat([state[name], more[name]]) for name in state}


def _verify(attack: Attack, radius: float, norms: Tensor, adversarial: Tensor) -> None:
    """VerificationError where a perturbation is larger than allowed or leaves the box: a wrong attack, not a result."""
    worst = float(norms.max()) if len(norms) else 0.0
    if worst > radius + _TOLERANCE or not (
        adversarial.numel() == 0 or 0 <= adversarial.min() <= adversarial.max() <= 1
    ):
        raise VerificationError(
            f"{type(attack).__name__} gave a perturbation of {attack.norm} norm {worst:.8g} for a radius {radius:g}, "
            f"pixels from {adversarial.min():g} to {adversarial.max():g}.",
            "Please report this: an attack must stay inside its ball and the box.",
        )
