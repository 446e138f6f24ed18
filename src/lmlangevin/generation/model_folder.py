"""What a saved pipeline's folder says of itself, read without loading anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.scenes.models import model_source


def check_model_folder(folder: Path) -> None:
    """Check that a folder is that of a saved pipeline, with every component that it names.

    Raises:
        LMLError: If it is none, or lacks one.
    """
    name = f"model={str(folder)!r}"
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LMLError(
            f"{name} holds no model_index.json; give a folder written by a pipeline's save_pretrained."
        ) from None
    except (OSError, ValueError) as error:
        raise LMLError(f"{name} has a model_index.json that cannot be read ({error}); copy it again.") from error
    # A component is [library, class], or two nulls where the pipeline goes without it.
    parts = {key: value for key, value in index.items() if isinstance(value, list) and len(value) == 2 and all(value)}
    missing = [key for key in parts if not (folder / key).is_dir()]
    if missing:
        raise LMLError(f"{name} lacks {', '.join(missing)}, which its model_index.json names; copy the whole folder.")


def scheduler_of_folder(model: str) -> str | None:
    """Return the short name of the sampler that a model's folder comes with.

    Args:
        model: Folder of a saved pipeline; for anything else nothing is known.

    Returns:
        A key of `lmlangevin.schedulers.SCHEDULERS`; None where the folder says nothing. A scheduler without a short
        name becomes one for the same kind of model, DDIM or flow-matching Euler.
    """
    try:
        config = json.loads(
            (Path(model_source(model)) / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")
        )
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
