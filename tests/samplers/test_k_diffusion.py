"""Against the PyPI package k-diffusion: its samplers at gain 0, and its wrappers round a small network.

It needs a torchvision to be imported, so that happens in a process of its own: `k_diffusion_checks.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    script = Path(__file__).with_name("k_diffusion_checks.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_is_the_installed_package(results: dict[str, Any]) -> None:
    assert all("site-packages" in file and "k_diffusion" in file for file in results["files"])


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_with_gain_0_it_is_k_diffusions_bit_for_bit(results: dict[str, Any], name: str) -> None:
    equal = {key: value for key, value in results.items() if key.startswith(f"equal/{name}/")}
    assert len(equal) == 14 * 6 + 2 + 2
    assert all(equal.values()), [key for key, value in equal.items() if not value]


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_the_callback_is_told_the_same(results: dict[str, Any], name: str, kind: str) -> None:
    assert results[f"callback/{name}/{kind}"] == [True] * (6 + 6 * 5)


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_a_wrapped_network_is_corrected(results: dict[str, Any], name: str, kind: str) -> None:
    corrected = {key: value for key, value in results.items() if key.startswith(f"corrected/{name}/{kind}/")}
    assert len(corrected) == 3
    for result in corrected.values():
        assert result["finite"] and result["repeats"]
        assert 1e-4 < result["change"] < 1
