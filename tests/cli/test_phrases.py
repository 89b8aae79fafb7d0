"""Sentences about a report: the distances that minimal-norm attacks found."""

from robustq.cli.phrases import distances


def test_distances_of_the_nearest_adversarials() -> None:
    norms = {"n": 76, "found": 70, "p10": 0.03, "median": 0.1379, "p90": None, "mean": None}
    details = {"fab": {"norm": "linf", "norms": norms}, "pgd": {"norm": "linf"}}
    assert distances({"name": "small", "details": details}) == [
        "small, fab: the smallest L-inf perturbations of 70 of 76 images: a tenth below 0.03, median 0.1379"
    ]
    nothing = {"n": 3, "found": 0, "p10": None, "median": None, "p90": None, "mean": None}
    assert distances({"name": "small", "details": {"cw": {"norm": "l2", "norms": nothing}}}) == [
        "small, cw: the smallest L2 perturbations of 0 of 3 images"
    ]
    assert distances({"name": "small"}) == []
