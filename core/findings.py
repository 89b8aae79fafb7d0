"""What is known of each image under attack, and the verdicts of the model on what an attack has found."""

import torch
from torch import Tensor

from .attacks.attack import Attack
from .attacks.norms import NORMS
from .inference import Victim

TOLERANCE = 1e-6  # of the norm of a perturbation


class Findings:
    """Of n images: `adversarial` (n, c, h, w), the rest (n,); the fields that results name are as in `AttackResult`.

    minimal: of minimal-norm attacks, the smallest norm that was verified; nearest, nearest_norm: the smallest
    adversarial of the start under way, as yet unverified
    likeliest, least: of several starts on a model that draws noise, the point that is kept, and how often it is
    answered rightly
    """

    def __init__(self, attack: Attack, victim: Victim, x: Tensor, y: Tensor, clean: Tensor) -> None:
        self.attack, self.victim, self.x, self.y = attack, victim, x, y
        self.correct = clean == y
        self.adversarial, self.answers = x.clone(), clean.clone()
        self.fooled = torch.zeros_like(self.correct)
        self.first = torch.full_like(y, -1)
        self.margins = torch.full(y.shape, torch.inf)
        self.minimal = x.new_full((len(x),), torch.inf).masked_fill(~self.correct, 0.0)
        self.nearest, self.nearest_norm = self.adversarial, self.minimal
        self.likeliest, self.least = x, x.new_full((len(x),), torch.inf)
        self.unconfirmed = 0
        self.survivors: dict[str, int] = {}

    def _judge(self, rows: Tensor) -> None:
        """Verify the results of one start: `rows` (k,) of the images."""
        answers, self.margins[rows] = self.victim.judged(self.adversarial[rows], self.y[rows])
        wrong, claimed = answers != self.y[rows], self.first[rows] >= 0
        self.unconfirmed += int((claimed & ~wrong).sum())
        first = torch.where(claimed, self.first[rows], self.attack.iterations)
        self.first[rows] = torch.where(wrong, first, -1)
        self.fooled[rows], self.answers[rows] = wrong, answers

    def _keep_likeliest(self, rows: Tensor) -> None:
        """Of several starts on a randomized model, keep the point of each image that is answered rightly least often.

        A verdict of ten passes is itself a draw: an attack must not pick its luckiest one, nor leave an image for a
        lucky one. So only images that are never answered rightly leave, and the last verdict is of fresh draws.
        """
        share = self.victim.rightly(self.adversarial[rows], self.y[rows])
        lower = rows[share < self.least[rows]]
        self.likeliest[lower] = self.adversarial[lower]
        self.least[rows] = torch.minimum(self.least[rows], share)
        self.fooled[rows] = self.least[rows] == 0
        first = torch.where(self.first[rows] < 0, self.attack.iterations, self.first[rows])
        self.first[rows] = torch.where(self.fooled[rows], first, -1)

    def _judge_likeliest(self) -> None:
        """The verdict on the point that was kept of each image."""
        rows, certain = self.correct.nonzero()[:, 0], self.fooled.clone()
        self.adversarial[rows] = self.likeliest[rows]
        answers, self.margins[rows] = self.victim.judged(self.adversarial[rows], self.y[rows])
        self.fooled[rows], self.answers[rows] = answers != self.y[rows], answers
        self.unconfirmed += int((certain & ~self.fooled).sum())
        self.first = torch.where(self.fooled & (self.first < 0), self.attack.iterations, self.first)
        self.first[~self.fooled] = -1
        self.survivors[list(self.survivors)[-1]] = int((self.correct & ~self.fooled).sum())

    def _judge_nearest(self, rows: Tensor, before: Tensor) -> None:
        """Verify what a start of a minimal-norm attack handed in, then the smallest adversarial of each image.

        before (n, c, h, w): the adversarials as they were before this start.
        """
        last = self.adversarial[rows]
        answers = self.victim.answers(last, self.y[rows])
        self._note_nearest(rows, last, answers != self.y[rows], torch.full_like(rows, self.attack.iterations))
        known = self.minimal[rows].isfinite()
        self.adversarial[rows[known]], self.answers[rows[~known]] = before[rows[known]], answers[~known]
        nearer = rows[self.nearest_norm[rows] < self.minimal[rows]]
        answers = self.victim.answers(self.nearest[nearer], self.y[nearer])
        wrong = answers != self.y[nearer]
        self.unconfirmed += int((~wrong).sum())
        nearer = nearer[wrong]
        self.adversarial[nearer], self.minimal[nearer] = self.nearest[nearer], self.nearest_norm[nearer]
        self.answers[nearer] = answers[wrong]
        self.fooled[rows] = self.minimal[rows] <= self.attack.radius + TOLERANCE
        self.first[rows[~self.fooled[rows]]] = -1

    def _note_nearest(self, rows: Tensor, x: Tensor, wrong: Tensor, taken: Tensor) -> None:
        """Keep points x (k, c, h, w) of images `rows` (k,) that are misclassified and nearer than those before."""
        x, rows = x[wrong].to(self.x.device), rows[wrong].to(self.first.device)
        norm = NORMS[self.attack.norm].size(x - self.x[rows])
        inside = (norm <= self.attack.radius + TOLERANCE) & (self.first[rows] < 0)
        self.first[rows[inside]] = taken[wrong].to(self.first.device)[inside]
        nearer = norm < self.nearest_norm[rows]
        self.nearest[rows[nearer]], self.nearest_norm[rows[nearer]] = x[nearer], norm[nearer]
