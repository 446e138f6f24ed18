"""Every preset's dry run, end to end, on the tiny pipeline of its kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from lmlangevin import cli
from lmlangevin.reproduce.preset import DRY_NFE, load_preset, preset_names


def test_every_preset_has_a_tiny_pipeline(kinds: dict[str, str]) -> None:
    assert sorted(kinds) == preset_names()


@pytest.mark.parametrize("name", preset_names())
def test_a_dry_run_goes_through_everything(
    name: str, kinds: dict[str, str], tiny_pipeline: Callable[[str], Path], tiny_blip: Path, tmp_path: Path
) -> None:
    preset, out = load_preset(name), tmp_path / "out"
    words = ["--model-dir", tiny_pipeline(kinds[name]), "--dry-run", "--out", out]
    if preset.measure == "blip-vqa":
        words += ["--blip-model", tiny_blip]
    # Every sampler of the preset; both numbers of evaluations where that is cheap.
    costs = DRY_NFE if name == "cifar10" else DRY_NFE[:1]
    words += [] if costs == DRY_NFE else ["--nfe", costs[0]]
    done = CliRunner().invoke(cli.cli, ["reproduce", name, *map(str, words)])
    assert done.exit_code == 0, done.output

    content: dict[str, Any] = json.loads((out / "result.json").read_text())
    assert (content["status"], content["dry_run"], content["whole"]) == ("complete", True, False)
    assert len(content["cells"]) == len(preset.samplers) * len(costs)
    for key, cell in content["cells"].items():
        armed = cell["sampler"] in preset.arms
        assert list(cell["arms"]) == (["plain", "lml", "release"] if armed else ["plain"])
        for arm in cell["arms"].values():
            assert arm["nfe"] == cell["nfe"] and arm["non_finite"] == 0
            assert arm["guidance_evaluations"] == (cell["nfe"] if preset.doubled else 0)
            assert len(arm["blocks"]) == 2 and len(set(arm["blocks"])) == 2
        if armed:
            lml, release = cell["arms"]["lml"], cell["arms"]["release"]
            # The published DDPM's scheduler clips, which DDIM then does and the adaptive control refuses.
            adaptive = name == "cifar10" and cell["sampler"] == "dpm-3"
            assert lml["control"] == ("adaptive" if adaptive else "constant")
            assert release["lambda"] == preset.damping(cell["nfe"])
            job = json.loads(
                (out / "jobs" / f"{'-'.join(key.split('|')[:-1])}-{cell['nfe']:03d}/manifest.json").read_text()
            )
            assert job["runs"]["release"]["scheduler_class"].startswith("Release")
            assert job["runs"]["lml"]["scheduler_config"]["control"] == lml["control"]
            values = cell["differences"]["lml"]["values"]
            pairs = zip(cell["arms"]["plain"]["blocks"], lml["blocks"], strict=True)
            assert values == pytest.approx([b - a for a, b in pairs])
    table = (out / "table.md").read_text()
    assert "DRY RUN" in table.splitlines()[0] and table.strip() in done.stdout
    for picture in ("curves.png", "compare.png"):
        with Image.open(out / picture) as drawn:
            assert drawn.width > 300
