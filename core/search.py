"""The attacks on one set of images: batches with refill, dropping of fooled images, restarts, members of an ensemble.

Dropping a fooled image cannot change the result of a deterministic model: in evaluation mode no image sees another.
One draw of a randomized model proves nothing: an image leaves only where `CONFIRMATIONS` further draws at the same
point are wrong too, all of them, and is then judged anew, like every result, by the most frequent of its answers.

A minimal-norm attack (`Attack.minimal`) that is no member of an ensemble goes on after its first success. At every
point that is evaluated, and at the one it hands in by `final`, the smallest perturbation that the model misclassifies
is kept, beyond the radius too; the image leaves early only where the attack says that it is `finished`. It counts as
fooled if the smallest one, verified on the model, lies within the radius.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import registry
from .attacks.attack import Attack, Key, State, begin
from .attacks.norms import NORMS, is_zero
from .findings import Findings
from .inference import Net, Victim, device_of
from .probabilities import are_probabilities, logarithms
from .stepping import advance, gradient
from .straight_through import rounds, straight_through
from .streamlining import streamlined

Progress = Callable[[int, int], None]  # image steps done, image steps in all
MASKED = 0.01  # share of attacked images without a gradient from which on something is wrong with the gradient
CONFIRMATIONS = 10  # further draws in which a randomized model must be wrong before an image leaves


class Search(Findings):
    """Attacks on one set of images: fills in what is known of each image, start by start."""

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
        super().__init__(members[0], victim, x, y, clean)
        self.index, self.drop, self.progress = index, drop, progress
        self.zero_gradient = self.zeros = 0  # zeros: in the start that is under way
        self.net: Net = victim  # what is differentiated
        self.probabilities: bool | None = None  # whether the model answers with them; None: it has not been asked
        self.through_rounding = self.rescaled = self.checked = False  # checked: zero gradients have been counted
        self.clean_logits: Tensor | None = None
        self.members = [self._fitted(member) for member in members]
        self.seeks_minimum = len(members) == 1 and members[0].minimal
        self.several = victim.draws > 1 and sum(m.repeats for m in self.members) > 1 and not self.seeks_minimum
        self.likeliest = x.clone() if self.several else x
        self.total = sum(member.iterations * member.repeats for member in self.members)  # steps of one image
        self.steps = self.past = self.told = 0  # image steps so far; steps of one image in starts that are over

    def whole(self, seed: int, straight: bool) -> None:
        """All members after each other; `straight`: with straight-through gradients from the first step on."""
        if straight:
            self.pass_rounding()
        for place in range(len(self.members)):
            self.follow(place, seed)
        if self.several and self.correct.any():
            self._judge_likeliest()

    def follow(self, place: int, seed: int) -> None:
        """All starts of one member, by its place."""
        self.attack, self.checked = self.members[place], False
        if self.rescaled:
            self.attack = self._fitted(self.attack.rescaled() or self.attack)
        name = registry.name_of(self.attack)
        label = f"{name}-{place + 1}" if name in self.survivors else name
        robust = self.correct & ~self.fooled
        for repeat in range(self.attack.repeats):
            key = (seed, name, repeat)
            self.one_start(key, robust)
            while self._is_remedied():
                self.one_start(key, robust)
            self.past += self.attack.iterations
        standing = self.least >= 0.5 if self.several else ~self.fooled
        self.survivors[label] = int((self.correct & standing).sum())

    def pass_rounding(self) -> None:
        """Straight-through gradients from the first step on, where the model rounds."""
        device = device_of(self.victim.model, self.x.device)
        if len(self.x) and rounds(self.victim, self.x[:1].to(device)):
            self.net, self.through_rounding = straight_through(self.net), True

    def _is_remedied(self) -> bool:
        """Whether too many images had no gradient, and something was done about it: the start has to be made again.

        A model that rounds is given straight-through gradients; where it does not, or that did not help, its logits
        are taken to saturate the loss, and the attack is given one that no scale of the logits leaves without gradient.
        """
        if self.checked or not self.attack.uses_gradient:
            return False
        self.zero_gradient, masked = max(self.zero_gradient, self.zeros), self.zeros > MASKED * int(self.correct.sum())
        device = device_of(self.victim.model, self.x.device)
        if masked and not self.through_rounding and rounds(self.victim, self.x[:1].to(device)):
            self.net, self.through_rounding = straight_through(self.net), True
            return True
        self.checked = True
        softer = self.attack.rescaled() if masked else None
        if softer is None or self._zero_share(softer) >= self._zero_share(self.attack):
            return False
        self.attack, self.rescaled = self._fitted(softer), True
        return True

    def _zero_share(self, attack: Attack) -> float:
        """Of one batch of images, the share that has no gradient at the start."""
        attack = self._fitted(attack)
        state = self._enter(self.correct.nonzero()[: self.victim.batch, 0], (), attack)
        return float(is_zero(gradient(attack, self.net, state)[1]).float().mean())

    def _fitted(self, attack: Attack) -> Attack:
        if not attack.sees_answers or not self.correct.any():
            return attack
        self.clean_logits = self._clean_logits() if self.clean_logits is None else self.clean_logits
        return attack.fitted(self.clean_logits.shape[1])

    def _clean_logits(self) -> Tensor:
        """(n, classes) on the images themselves, zero where the model is wrong anyway."""
        device, rows = device_of(self.victim.model, self.x.device), self.correct.nonzero()[:, 0]
        found = torch.cat([self.victim.logits(self.x[part].to(device)) for part in rows.split(self.victim.batch)])
        whole = found.new_zeros(len(self.x), found.shape[1])
        whole[rows] = found.clamp_min(torch.finfo(found.dtype).tiny).log() if are_probabilities(found) else found
        return whole

    def one_start(self, key: Key, robust: Tensor) -> None:
        """Attack what is still robust from one start, then let the model as it is judge every result.

        A minimal-norm attack goes on with all that was robust (n,) before its first start.
        """
        rows = (robust if self.seeks_minimum else self.correct & ~self.fooled).nonzero()[:, 0]
        if not len(rows):
            return
        attacked = int(self.correct.sum())
        self.steps = attacked * self.past + (attacked - len(rows)) * self.attack.iterations
        before = self.adversarial.clone() if self.seeks_minimum else self.adversarial
        if self.seeks_minimum:
            self.nearest, self.nearest_norm = torch.empty_like(before), self.minimal.clone()
        with streamlined(self.victim.model):
            self._search(rows, key)
        if self.seeks_minimum:
            self._judge_nearest(rows, before)
        elif self.several:
            self._keep_likeliest(rows)
        else:
            self._judge(rows)

    def _search(self, waiting: Tensor, key: Key) -> None:
        """Step the images `waiting` (k,) in batches that are refilled as images leave; fills adversarial and first."""
        batch, state, self.zeros = self.victim.batch, None, 0
        while len(waiting) or state is not None:
            room = batch - (0 if state is None else len(state["y"]))
            if len(waiting) and (state is None or 4 * room >= batch):
                state = _join(state, self._enter(waiting[:room], key, self.attack))
                waiting = waiting[room:]
            assert state is not None
            logits, grad, value = self._looked(state)
            self.victim.backwards += len(grad) * self.attack.eot if self.attack.uses_gradient else 0
            first = state["taken"] == 0
            if self.attack.uses_gradient and not self.checked and first.any():
                self.zeros += int((is_zero(grad) & first).sum())
            stay = self._note_success(state, logits)
            self._tell(int(stay.sum()) + int((self.attack.iterations - state["taken"])[~stay].sum()))
            if not stay.all():
                self._hand_in(_select(state, ~stay))
                state, logits, grad, value = _select(state, stay), logits[stay], grad[stay], value[stay]
            if len(logits):
                state = advance(self.attack, state, logits, grad, value, key)
                state = self._retire(state)
            state = state if len(state["y"]) else None

    def _looked(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """`gradient` at the points of the state; of the logarithms, where the model answers with probabilities."""
        found = gradient(self.attack, self.net, state)
        if self.probabilities is not None:
            return found
        self.probabilities = are_probabilities(found[0])
        if not self.probabilities:
            return found
        self.net = logarithms(self.net)
        return gradient(self.attack, self.net, state)

    def _enter(self, rows: Tensor, key: Key, attack: Attack) -> State:
        """The state of images that start; `row` is their place in this run."""
        device = device_of(self.victim.model, self.x.device)
        x, y, index = (t[rows].to(device) for t in (self.x, self.y, self.index))
        known = None if self.clean_logits is None else self.clean_logits[rows.to(device)]
        return begin(attack, x, y, key, index, known) | {"row": rows.to(device)}

    def _note_success(self, state: State, logits: Tensor) -> Tensor:
        """Keep the first success of each image, or the smallest one; (k,) bool: which images go on."""
        stay, randomized = ~self.attack.finished(state, logits), self.victim.draws > 1
        if self.seeks_minimum and randomized:  # what it hands in at the end is judged, by many draws
            return stay
        if self.seeks_minimum:
            self._note_nearest(state["row"], state["x"], logits.argmax(1) != state["y"], state["taken"])
            return stay
        won = self.attack.success(state, logits)
        if randomized and won.any():
            won = self._confirmed(state, won & (self.first[state["row"].to(self.first.device)] < 0).to(won.device))
        if won.any():
            rows = state["row"][won].to(self.first.device)
            new = self.first[rows] < 0
            self.adversarial[rows[new]] = state["x"][won].to(self.x.device)[new]
            self.first[rows[new]] = state["taken"][won].to(self.first.device)[new]
        return stay & ~won if self.drop else stay

    def _confirmed(self, state: State, won: Tensor) -> Tensor:
        """(k,) bool: of the images that `won` (k,), those that do so in `CONFIRMATIONS` further draws, all of them."""
        won = won.clone()
        for _ in range(CONFIRMATIONS):
            if not won.any():
                break
            rest = {name: values[won] for name, values in state.items()}
            won[won.clone()] = self.attack.success(rest, self.victim.logits(rest["x"]))
        return won

    def _retire(self, state: State) -> State:
        """Take out the images that have had all their steps; their last point is what is verified."""
        done = state["taken"] >= self.attack.iterations
        if not done.any():
            return state
        self._hand_in(_select(state, done))
        return _select(state, ~done)

    def _hand_in(self, state: State) -> None:
        """Take the last points of images that leave, unless a success of theirs is kept already."""
        if not len(state["y"]):
            return
        rows = state["row"].to(self.first.device)
        new = torch.ones_like(self.fooled[rows]) if self.seeks_minimum else self.first[rows] < 0
        last = self.attack.final(state, self.victim.draws > 1)
        if self.attack.minimal and not self.seeks_minimum:  # what is larger than the radius would be no answer
            last = NORMS[self.attack.norm].confine(state["clean"], last - state["clean"], self.attack.radius)
        last = last.to(self.x.device)
        self.adversarial[rows[new]] = last[new]

    def _tell(self, steps: int) -> None:
        self.steps += steps
        self.told = max(self.told, self.steps)  # a start that is made again is not told of
        if self.progress:
            self.progress(self.told, int(self.correct.sum()) * self.total)


def _select(state: State, keep: Tensor) -> State:
    return state if keep.all() else {name: values[keep] for name, values in state.items()}


def _join(state: State | None, more: State) -> State:
    return more if state is None else {name: torch.cat([state[name], more[name]]) for name in state}
