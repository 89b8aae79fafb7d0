"""Which checks run, and how."""

from collections.abc import Callable

from .. import rng
from ..errors import OptionError, RobustqError
from . import free, probing, single, surface, sweeps
from .evidence import Evidence
from .finding import Finding, skipped
from .table import CHECKS, Check

MODES = ("default", "all", "none")  # of `--checks`
HOW: dict[str, Callable[[Check, Evidence], Finding]] = {
    "RQ001": single.differentiable,
    "RQ002": single.zero_gradient,
    "RQ003": single.saturated,
    "RQ004": single.randomized,
    "RQ005": single.not_logits,
    "RQ006": probing.transfer,
    "RQ007": free.black_box,
    "RQ008": free.not_converged,
    "RQ009": probing.unbounded,
    "RQ010": sweeps.radii,
    "RQ011": single.one_step,
    "RQ012": single.cross_artefact,
    "RQ013": free.statistics,
    "RQ014": single.preflight,
    "RQ015": sweeps.steps,
    "RQ016": sweeps.restarts,
    "RQ017": sweeps.random_noise,
    "RQ018": sweeps.loss_scale,
    "RQ019": surface.gradient,
    "RQ020": surface.surface,
    "RQ021": single.train_mode,
    "RQ022": free.valid,
    "RQ023": surface.known_answer,
    "RQ024": single.same_images,
    "RQ025": probing.noise_off,
    "RQ026": sweeps.eot,
}


def run(evidence: Evidence, mode: str = "default") -> list[Finding]:
    """One finding for each check of the table, in its order; none with mode "none".

    "default" leaves out those that cost as much as an attack (skipped, with that reason); "all" runs everything.
    """
    if mode not in MODES:
        raise OptionError(f"checks is {mode!r}.", f"It can be one of: {', '.join(MODES)}.")
    if mode == "none":
        return []
    with rng.seeded(evidence.seed, "checks"):  # of networks that draw noise by themselves
        return [_one(check, evidence, mode) for check in CHECKS]


def _one(check: Check, evidence: Evidence, mode: str) -> Finding:
    if not evidence.attacks:
        return skipped(check, "no attack was run")
    if not len(evidence.data):
        return skipped(check, "there are no images")
    if check.cost == "all" and mode != "all":
        return FREE.get(check.id, _left_out)(check, evidence)
    try:
        return HOW[check.id](check, evidence)
    except RobustqError as error:  # what cannot be checked must not take the benchmark with it
        return skipped(check, error.problem)


def _left_out(check: Check, evidence: Evidence) -> Finding:
    return skipped(check, "costs as much as an attack; --checks all runs it")


FREE = {"RQ010": free.monotone}  # what an expensive check can tell from the attacks alone
