"""`result.json`: what a reproduction has measured so far, written whole after every cell."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from lmlangevin.core.errors import LMLError
from lmlangevin.files import read_json, write_text
from lmlangevin.generation.manifest import differences
from lmlangevin.reproduce.measure import LAYOUT, STATISTICS, Measurement, check_same
from lmlangevin.reproduce.plan import RELEASE_DTYPE, Cell, Plan

FORMAT = "lmlangevin-reproduce-1"
RESULT = "result.json"
TABLE = "table.md"
CURVES = "curves.png"
COMPARE = "compare.png"
JOBS = "jobs"
PROMPTS = "prompts"
_OURS = (JOBS, PROMPTS, LAYOUT)


class Record:
    """The result file of a run.

    Args:
        plan: The plan.
        data: What the run was given: hashes of prompts and of the reference.

    Raises:
        LMLError: The folder holds a run that is neither to go on nor to be replaced, one of other settings, or
            something else.
    """

    def __init__(self, plan: Plan, data: dict[str, Any]) -> None:
        self._plan = plan
        self._path = plan.out / RESULT
        self.content = self._start(data)
        self._open()
        self.content["whole"] = plan.covers(self.content["asked"])

    def _open(self) -> None:
        """See what is in the folder, and take it over or away."""
        plan = self._plan
        earlier = read_result(self._path) if self._path.exists() else None
        if earlier is None:
            found = [name for name in _OURS if (plan.out / name).exists()]
            if found:
                raise LMLError(
                    f"out={str(plan.out)!r} holds {', '.join(found)} and no {RESULT}; give another folder, or move "
                    "them away."
                )
            return
        if plan.config.overwrite:
            self._remove()
            return
        if not plan.config.resume:
            raise LMLError(
                f"out={str(plan.out)!r} already holds a run ({earlier['status']}); give --resume to go on with it, "
                "--overwrite to replace it, or another folder."
            )
        self._take_over(earlier)

    @property
    def cells(self) -> dict[str, dict[str, Any]]:
        """The measured cells, by their keys."""
        return self.content["cells"]

    def add(self, cell: Cell, job: Any, measured: Measurement) -> None:
        """Take in a measured cell, and write the file.

        Args:
            cell: The cell.
            job: What `lml generate` returned for it.
            measured: What was measured.
        """
        if self.content["measure"]:
            check_same(self.content["measure"], measured.about)
        self.content["measure"] = measured.about
        self.content["notes"] = list(dict.fromkeys([*self.content["notes"], *measured.notes]))
        arms = {}
        for arm in cell.arms:
            arms[arm] = {**measured.arms[arm], **_of_run(job.runs[cell.run(arm)], arm)}
        if "release" in arms:
            arms["release"] |= {"lambda": self._plan.preset.damping(cell.nfe), "dtype": RELEASE_DTYPE}
        self.cells[cell.key] = {
            "sampler": cell.sampler,
            "nfe": cell.nfe,
            **({"category": cell.category} if cell.category else {}),
            "arms": arms,
            "differences": measured.differences,
        }
        self.save()

    def finish(self) -> None:
        """Say that the run is complete, if every cell that was ever asked for is there, and write the file."""
        if not self.missing():
            self.content["status"] = "complete"
        self.save()

    def missing(self) -> list[str]:
        """Return the keys of cells that were asked for, now or earlier, and are not measured."""
        return [key for key in self.content["asked"] if key not in self.cells]

    def save(self) -> None:
        """Write the file in one move."""
        self.content["updated"] = _now()
        write_text(self._path, dump(self.content))

    def _start(self, data: dict[str, Any]) -> dict[str, Any]:
        from lmlangevin.generation.manifest import package_versions

        plan, preset = self._plan, self._plan.preset
        import torch

        return {
            "format": FORMAT,
            "status": "running",
            "dry_run": plan.config.dry_run,
            "whole": False,
            "preset": preset.name,
            "title": preset.title,
            "command": plan.command(),
            "created": _now(),
            "updated": _now(),
            "versions": package_versions(),
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "device": plan.config.device,
            },
            "first_seed": preset.first_seed,
            "settings": {
                "model": plan.model_name,
                "model_title": preset.model,
                "num_images": preset.num_images,
                "images_per_prompt": preset.images_per_prompt,
                "first_seed": preset.first_seed,
                "blocks": preset.seed_blocks,
                "protocol": plan.protocol.name if preset.protocol else "",
                "guidance_scale": preset.guidance_scale,
                "resolution": preset.resolution,
                "dtype": preset.dtype,
                "release_lambda": preset.release_lambda,
                "data": data,
            },
            "declared_images": plan.declared.num_images,
            "arms": list(preset.arms),
            "baselines": list(preset.baselines),
            "asked": [cell.key for cell in plan.cells],
            "paper": preset.paper,
            "assumed": list(preset.assumed),
            "measure": {},
            "notes": [],
            "cells": {},
        }

    def _take_over(self, earlier: dict[str, Any]) -> None:
        """Go on with what an earlier run has measured.

        Raises:
            LMLError: It was of other settings.
        """
        asked, found = (
            {key: content.get(key) for key in ("preset", "dry_run")} | content["settings"]
            for content in (self.content, earlier)
        )
        words = differences({key: found.get(key) for key in asked}, asked)
        if words is not None:
            raise LMLError(
                f"out={str(self._plan.out)!r} holds a run of other settings: {words}; give what the folder has to "
                "--resume it, another folder, or --overwrite."
            )
        for key in ("created", "measure", "notes", "cells"):
            self.content[key] = earlier[key]
        for key in ("asked", "arms", "baselines"):
            self.content[key] = list(dict.fromkeys([*earlier[key], *self.content[key]]))
        if earlier["versions"] != self.content["versions"]:
            self.content["earlier_versions"] = [*earlier.get("earlier_versions", []), earlier["versions"]]
        # The command is that of the wider of the two.
        if set(earlier["asked"]) >= {cell.key for cell in self._plan.cells}:
            self.content["command"] = earlier["command"]

    def _remove(self) -> None:
        """Delete what an earlier run has made, its result last."""
        for name in _OURS:
            folder = self._plan.out / name
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        for name in (TABLE, CURVES, COMPARE, STATISTICS, RESULT):
            (self._plan.out / name).unlink(missing_ok=True)


def _of_run(run: Any, arm: str) -> dict[str, Any]:
    """Return what the record says of how an arm's images were made."""
    row: dict[str, Any] = {
        "nfe": run.nfe,
        "guidance_evaluations": run.guidance_evaluations,
        "seconds": round(run.seconds, 1),
        "non_finite": run.non_finite,
    }
    if arm == "lml":
        config = run.scheduler.config
        gains = [step["gain"][0] for step in run.corrections]
        row |= {"control": config.get("control"), "gain": config.get("gain"), "preset": config.get("preset")}
        row |= {"mean_gains": [round(gain, 4) if math.isfinite(gain) else None for gain in gains]}
    return row


def read_result(path: Path) -> dict[str, Any]:
    """Return the content of a result file.

    Raises:
        LMLError: It is none.
    """
    content = read_json(path, f"result {str(path)!r}:", "move it away")
    keys = ("status", "settings", "cells", "asked", "whole", "versions", "measure", "notes", "arms", "baselines")
    if not isinstance(content, dict) or content.get("format") != FORMAT or any(key not in content for key in keys):
        raise LMLError(f"result {str(path)!r}: is none of lml reproduce; give another folder.")
    return content


def dump(content: dict[str, Any]) -> str:
    """Return a record as JSON with one line a cell."""
    head = json.dumps({key: value for key, value in content.items() if key != "cells"}, indent=1, allow_nan=False)
    rows = [f"  {json.dumps(key)}: {json.dumps(row, allow_nan=False)}" for key, row in content["cells"].items()]
    return head[:-2] + ',\n "cells": {\n' + ",\n".join(rows) + "\n }\n}\n"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
