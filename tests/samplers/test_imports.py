"""The samplers are for people without diffusers: what importing and running them imports, in a fresh process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

CODE = """
    import sys
    import torch
    torch.ones(2) + 1
    before = set(sys.modules)
    from lmlangevin.samplers import sample_lml_dpmpp_2m, sample_lml_euler
    imported = {name.partition(".")[0] for name in set(sys.modules) - before}
    x, sigmas = torch.arange(6.0).reshape(2, 3), torch.tensor([3.0, 1.0, 0.0])
    for sample in (sample_lml_euler, sample_lml_dpmpp_2m):
        sample(lambda x, sigma: x.tanh(), x, sigmas, gain=0.3)
    print(sorted(imported - set(sys.stdlib_module_names)))
    print(sorted(name for name in ("diffusers", "k_diffusion", "comfy", "torchvision", "scipy") if name in sys.modules))
    print(sorted(name for name in sys.modules if name.count(".") == 1 and name.startswith("lmlangevin.")))
"""


def test_torch_and_the_core_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(CODE)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    foreign, heavy, own = done.stdout.splitlines()
    assert foreign == "['lmlangevin']" and heavy == "[]"
    assert own == "['lmlangevin._version', 'lmlangevin.core', 'lmlangevin.samplers']"
