"""One of several processes that train together: `together.py JOBS.json`, each job {"recipe", "out", "stop"}.

Writes what this process holds at the end to OUT.RANK: {"result", "weights", "sessions", "history", "warnings"}, or
{"stopped"} or {"error"}.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from robustq.core import training
from robustq.core.errors import RobustqError
from robustq.core.recipe import Recipe


def held(job: dict[str, Any]) -> dict[str, Any]:
    runs: list[Any] = []
    original = training._Run.loop

    def loop(run: Any, on_event: Any) -> None:
        runs.append(run)
        original(run, on_event)

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == job.get("stop"):
            raise KeyboardInterrupt

    training._Run.loop = loop  # pyright: ignore[reportAttributeAccessIssue]
    state = Path(f"{job['out']}.state")
    try:
        made = training.train(Recipe.from_dict(job["recipe"]), state_path=state, on_event=on_event)
    except KeyboardInterrupt:
        return {"stopped": True}
    except RobustqError as error:
        return {"error": str(error)}
    finally:
        training._Run.loop = original
    return {
        "result": made.checkpoint.dense(),
        "weights": dict(runs[0].latent),
        "sessions": [session.state_dict() for session in runs[0].sessions],
        "history": made.history,
        "warnings": made.warnings,
    }


dist.init_process_group("gloo")
for job in json.loads(Path(sys.argv[1]).read_text()):
    torch.save(held(job), f"{job['out']}.{dist.get_rank()}")
    dist.barrier()
dist.destroy_process_group()
