"""Kernels: op schemas, reference implementations and native code."""


def status() -> dict[str, object]:
    """Which kernels are native, which are not and why."""
    return {"native": False, "reason": "not built"}
