"""Diagnostics on the screen: what failed and warns by line, the rest counted, all of it with -v."""

from robustq.cli.checks import lines

MODEL = {
    "name": "m",
    "checks": [
        {"id": "RQ001", "name": "one", "status": "pass", "message": "fine", "remedy": ""},
        {"id": "RQ002", "name": "two", "status": "fail", "message": "80 of 80", "remedy": "Do this."},
        {"id": "RQ003", "name": "three", "status": "skipped", "reason": "no parent", "remedy": ""},
    ],
}


def test_failures_by_line_and_the_rest_counted() -> None:
    assert list(lines(MODEL)) == [
        "m: FAIL RQ002 two: 80 of 80. Do this.",
        "m: 1 checks passed, 0 warn, 1 failed, 1 skipped",
    ]
    assert list(lines(MODEL, verbose=1))[2] == "m: skip RQ003 three: no parent"
    assert list(lines({"name": "m", "checks": []})) == []


def test_noise_on_and_off_is_always_said_of_a_network_that_draws_noise() -> None:
    noise = {"id": "RQ025", "name": "noise-off", "status": "pass", "message": "30 stand with it on", "remedy": ""}
    said = list(lines({"name": "m", "randomized": True, "checks": [noise]}))
    assert said[0] == "m: pass RQ025 noise-off: 30 stand with it on"
    assert len(list(lines({"name": "m", "randomized": False, "checks": [noise]}))) == 1
