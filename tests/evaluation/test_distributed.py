"""Statistics over real processes: gloo, several ranks, unequal shards, and ranks that do not agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lmlangevin.evaluation.frechet import FrechetStatistics, _group_device

WORKER = """
import datetime, json, sys
from dataclasses import replace
import torch
import torch.distributed as dist
from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.frechet import FrechetStatistics

torch.set_num_threads(1)
rank, cuts, store = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
world = len(cuts) - 1
limit = datetime.timedelta(seconds=60)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=limit)

def told(call):
    try:
        call()
    except LMLError as error:
        return str(error)
    return "nothing"

features = torch.randn(40, 6, generator=torch.Generator().manual_seed(900 + world), dtype=torch.float64) * 2 + 1
words = {"extractor": "e", "weight_hash": "h", "protocol": "p"}
mine = FrechetStatistics.empty(6, **words).update(features[cuts[rank]:cuts[rank + 1]])
before = mine.outer.clone()
whole = mine.all_reduce()
report = {"n": whole.n, "sum": whole.sum.tolist(), "outer": whole.outer.tolist(), "shard": mine.n}
report["words"] = [whole.extractor, whole.weight_hash, whole.protocol]
report["untouched"] = torch.equal(before, mine.outer)
last = rank == world - 1
for word in ("protocol", "extractor", "weight_hash"):
    report[word] = told((replace(mine, **{word: "other"}) if last else mine).all_reduce)
report["dim"] = told((FrechetStatistics.empty(7, **words) if last else mine).all_reduce)
# Ranks that disagreed are in step with each other still.
report["again"] = bool(torch.equal(mine.all_reduce().outer, whole.outer))
group = dist.new_group([0, 1])
report["group"] = told(lambda: report.update(pair=mine.all_reduce(group).n))
dist.barrier()
dist.destroy_process_group()
json.dump(report, sys.stdout)
"""


def run_ranks(cuts: list[int], folder: Path) -> list[dict[str, Any]]:
    """Run one process a rank, the shard of rank r being rows cuts[r] to cuts[r + 1]; kill all when one is late."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), json.dumps(cuts), str(folder / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(len(cuts) - 1)
    ]
    try:
        done = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, done, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output) for output, _ in done]


@pytest.mark.parametrize("cuts", [[0, 13, 40], [0, 9, 9, 40]], ids=["2 ranks", "3 ranks, one empty"])
def test_ranks_together_equal_one_pass_and_disagreement_is_told_on_every_rank(cuts: list[int], tmp_path: Path) -> None:
    world = len(cuts) - 1
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(900 + world), dtype=torch.float64) * 2 + 1
    whole = FrechetStatistics.empty(6).update(features)
    reports = run_ranks(cuts, tmp_path)
    assert [report["shard"] for report in reports] == [cuts[r + 1] - cuts[r] for r in range(world)]
    for rank, report in enumerate(reports):
        assert report["n"] == 40
        # JSON keeps every digit of a float64; torch.tensor would make float32 of a list.
        made = FrechetStatistics(
            40,
            torch.tensor(report["sum"], dtype=torch.float64),
            torch.tensor(report["outer"], dtype=torch.float64),
        )
        torch.testing.assert_close(made.mean, whole.mean, rtol=0, atol=1e-10)
        torch.testing.assert_close(made.covariance, whole.covariance, rtol=0, atol=1e-10)
        assert report["words"] == ["e", "h", "p"]
        assert report["untouched"] and report["again"]
        assert f"protocol 'p' on rank 0 and 'other' on rank {world - 1}" in report["protocol"]
        assert "make the statistics of all ranks with the same extractor" in report["extractor"]
        assert "weight_hash 'h' on rank 0" in report["weight_hash"]
        assert f"dim 6 on rank 0 and 7 on rank {world - 1}" in report["dim"]
        if rank < 2:
            assert report["pair"] == cuts[2] and report["group"] == "nothing"
        else:
            assert "not one of its ranks" in report["group"]


def test_without_a_process_group_statistics_are_whole_already() -> None:
    features = torch.randn(9, 3, generator=torch.Generator().manual_seed(910))
    statistics = FrechetStatistics.empty(3).update(features)
    assert statistics.all_reduce() is statistics


def test_sums_go_to_where_the_backend_reduces(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _group_device("cpu:gloo,cuda:gloo,xpu:gloo") == torch.device("cpu")
    assert _group_device("cpu:gloo,cuda:nccl") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert _group_device("cuda:nccl") == torch.device("cuda", 3)
