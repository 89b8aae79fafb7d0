"""The list of checks: one literal table. What each one measures is in the module named by its cost.

RQ001 to RQ014 are attacks' usual traps; the others come from Carlini et al. 2019, Athalye et al. 2018, Croce & Hein
2020 and Pintor et al. 2022. Where two sources give a threshold, the lower one is taken.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check. `measured` above `fail` fails, above `warn` warns; a higher figure is always the worse one.

    unit   of the figure: "share" of images, "points" of accuracy, "count", or "ratio"
    cost   free: from what the attacks found; single: a few passes over at most 128 images; unbounded: an attack on at
           most 64 images; all: as much as an attack, only when asked
    """

    id: str
    name: str
    what: str
    unit: str
    fail: float | None
    warn: float | None
    cost: str
    remedy: str


CHECKS: tuple[Check, ...] = (
    Check(
        "RQ001",
        "non-differentiable",
        what="images whose logits have no path back to the input (integer operations, ONNX)",
        unit="share",
        fail=0.0,
        warn=None,
        cost="single",
        remedy="Robust to transferred and black-box attacks only: give --parent FILE and attack with compressed.",
    ),
    Check(
        "RQ002",
        "zero-gradient",
        what="images for which neither the cross entropy nor the margin has a finite, non-zero gradient",
        unit="share",
        fail=0.0,
        warn=None,
        cost="single",
        remedy="The model rounds or hides its gradient: attack with compressed, and give --parent FILE.",
    ),
    Check(
        "RQ003",
        "saturated-ce",
        what="images whose cross entropy has no gradient in float32 while the margin has one",
        unit="share",
        fail=0.01,
        warn=0.0,
        cost="single",
        remedy="Use a loss that is blind to the scale of logits: apgd-t, loss=margin, or compressed.",
    ),
    Check(
        "RQ004",
        "randomized",
        what="images whose logits differ between five passes by more than 1e-4 of their length",
        unit="share",
        fail=0.0,
        warn=None,
        cost="single",
        remedy="Attack with eot=20, and report accuracy with the noise on and off.",
    ),
    Check(
        "RQ005",
        "not-logits",
        what=(
            "images whose outputs are probabilities: in [0, 1] with sum 1; warns where the two highest logits are"
            " more than 50 apart"
        ),
        unit="share",
        fail=0.0,
        warn=None,
        cost="single",
        remedy="Let the model answer with logits: leave its softmax out, or take the logarithm.",
    ),
    Check(
        "RQ006",
        "transfer-beats-white-box",
        what="robust accuracy that replay of the float parent's adversarials takes and the gradient attack does not",
        unit="points",
        fail=0.2,
        warn=0.0,
        cost="unbounded",
        remedy="The gradient is masked: the worst case, with the replay in it, is the result.",
    ),
    Check(
        "RQ007",
        "black-box-beats-white-box",
        what="robust accuracy that attacks without gradients take and the gradient attacks before them do not",
        unit="points",
        fail=0.2,
        warn=0.0,
        cost="free",
        remedy="The gradient attack is too weak or the gradient is masked: more steps and restarts, compressed.",
    ),
    Check(
        "RQ008",
        "not-converged",
        what="images that were first fooled in the last tenth of the steps",
        unit="points",
        fail=0.5,
        warn=0.2,
        cost="free",
        remedy="More steps or restarts.",
    ),
    Check(
        "RQ009",
        "unbounded",
        what="images that PGD at radius 1 leaves robust; noisy models may keep the share of chance",
        unit="share",
        fail=0.0,
        warn=None,
        cost="unbounded",
        remedy=(
            "No defence stands this: the gradient is masked. Attack with compressed, and give the float parent "
            "(--parent FILE)."
        ),
    ),
    Check(
        "RQ010",
        "eps-monotone",
        what="largest rise of robust accuracy from a radius to a larger one",
        unit="points",
        fail=1.0,
        warn=0.0,
        cost="all",
        remedy="The attack is too weak at large radii: more steps, or the gradient is masked.",
    ),
    Check(
        "RQ011",
        "one-step-beats-iterative",
        what="robust accuracy that one step takes and the gradient attack does not",
        unit="points",
        fail=0.5,
        warn=0.2,
        cost="single",
        remedy="The gradient is masked, or the steps are too long or too few.",
    ),
    Check(
        "RQ012",
        "cross-artefact",
        what="adversarials that fool the model that was attacked but not the file as it runs",
        unit="share",
        fail=0.01,
        warn=0.0,
        cost="single",
        remedy="Judge the artefact itself: robust means robust there.",
    ),
    Check(
        "RQ013",
        "statistics",
        what="half width of the 95% interval of the headline",
        unit="points",
        fail=None,
        warn=3.2,
        cost="free",
        remedy="Attack at least 1,000 images (--limit).",
    ),
    Check(
        "RQ014",
        "preflight",
        what="problems of model and data: training mode, pixels far below 1, accuracy at the level of chance",
        unit="count",
        fail=0.0,
        warn=None,
        cost="single",
        remedy="Check --data-range, --mean, --std and the labels.",
    ),
    Check(
        "RQ015",
        "steps-sweep",
        what="robust accuracy lost from 100 to 200 steps of PGD (10, 20, 50, 100, 200 are run)",
        unit="points",
        fail=1.0,
        warn=0.2,
        cost="all",
        remedy="The attack has not converged: more steps.",
    ),
    Check(
        "RQ016",
        "restarts",
        what="robust accuracy lost from 1 to 10 starts of PGD",
        unit="points",
        fail=2.0,
        warn=1.0,
        cost="all",
        remedy="More restarts.",
    ),
    Check(
        "RQ017",
        "random-noise",
        what="images called robust that one of 1,000 random points of the ball fools",
        unit="count",
        fail=0.0,
        warn=None,
        cost="all",
        remedy="A gradient attack that misses what chance finds is broken, or its gradient is masked.",
    ),
    Check(
        "RQ018",
        "loss-scale",
        what="robust accuracy that PGD takes when it sees the logits times 0.1, 10 or 100, and not as they are",
        unit="points",
        fail=1.0,
        warn=0.5,
        cost="all",
        remedy="The loss depends on the scale of the logits: use apgd-t, loss=margin or loss=rescaled.",
    ),
    Check(
        "RQ019",
        "gradient-reliability",
        what="median relative error of the gradient against finite differences along it",
        unit="ratio",
        fail=0.05,
        warn=None,
        cost="all",
        remedy="The gradient does not predict the loss: noise, rounding, or an obfuscated layer.",
    ),
    Check(
        "RQ020",
        "loss-surface",
        what="images whose loss falls at first along the sign of its own gradient",
        unit="share",
        fail=None,
        warn=0.2,
        cost="all",
        remedy="The loss surface is rough: more restarts, a random start, a smoothed gradient.",
    ),
    Check(
        "RQ021",
        "train-mode",
        what="images whose logits depend on the batch they are in, and forward passes that differentiate by themselves",
        unit="share",
        fail=0.0,
        warn=None,
        cost="single",
        remedy=(
            "Put batch norm and dropout into evaluation mode. Dynamic quantization takes its scale from the batch: "
            "judge it with the batch size of its use (--batch-size). Defences that optimise need their own attack."
        ),
    ),
    Check(
        "RQ022",
        "valid-perturbation",
        what="claimed adversarials beyond the radius or outside [0, 1] (the driver refuses any)",
        unit="count",
        fail=0.0,
        warn=None,
        cost="free",
        remedy="Please report it.",
    ),
    Check(
        "RQ023",
        "known-answer",
        what="images that can be fooled by an exact optimum, which the attack misses on a linear classifier",
        unit="share",
        fail=0.05,
        warn=None,
        cost="all",
        remedy="An attack that cannot break an undefended model proves nothing.",
    ),
    Check(
        "RQ024",
        "same-images",
        what="images answered otherwise when asked again than in the clean accuracy",
        unit="share",
        fail=0.0,
        warn=None,
        cost="single",
        remedy="Clean and robust accuracy must be of the same model and images.",
    ),
    Check(
        "RQ025",
        "noise-off",
        what="robust accuracy with the noise on (mean of 20 passes a step) minus that without it, on 64 images",
        unit="points",
        fail=5.0,
        warn=1.0,
        cost="unbounded",
        remedy="The robustness comes from noise in the gradient: report the figure without noise beside it.",
    ),
    Check(
        "RQ026",
        "eot-converged",
        what="robust accuracy lost from 20 to 100 passes averaged in each step",
        unit="points",
        fail=1.0,
        warn=0.2,
        cost="all",
        remedy="Average more passes: eot=100.",
    ),
)
BY_ID = {check.id: check for check in CHECKS}
