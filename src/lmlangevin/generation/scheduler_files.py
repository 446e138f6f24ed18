"""Which sampler a pipeline's folder names, read from its scheduler's configuration without loading anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def scheduler_of_folder(model: str) -> str | None:
    """Return the short name of the sampler that a model's folder comes with.

    Args:
        model: Folder of a saved pipeline; for anything else nothing is known.

    Returns:
        A key of `lmlangevin.schedulers.SCHEDULERS`; None where the folder says nothing. A scheduler without a short
        name becomes one for the same kind of model, DDIM or flow-matching Euler.
    """
    try:
        config = json.loads((Path(model) / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    name = str(config.get("_class_name", "")).replace("LMLScheduler", "Scheduler")
    flow = name.startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction"
    if flow or config.get("use_flow_sigmas"):
        flows = {"UniPCMultistepScheduler": "flow-unipc", "DPMSolverMultistepScheduler": "flow-dpmpp-2m"}
        return flows.get(name, "flow-euler")
    if name == "DPMSolverMultistepScheduler":
        return _dpm_solver(config)
    names = {
        "PNDMScheduler": "pndm",
        "EulerDiscreteScheduler": "euler",
        "UniPCMultistepScheduler": "unipc",
        "DEISMultistepScheduler": "deis",
    }
    return names.get(name, "ddim")


def _dpm_solver(config: dict[str, Any]) -> str:
    order = config.get("solver_order", 2)
    if config.get("algorithm_type", "dpmsolver++") == "dpmsolver":
        return "dpm-3"
    return {1: "dpmpp-1", 3: "dpmpp-3m"}.get(order, "dpmpp-2m")
