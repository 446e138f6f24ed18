"""What importing the package imports, in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap

import pytest

HEAVY = (
    "diffusers", "transformers", "accelerate", "safetensors", "huggingface_hub", "matplotlib", "PIL", "click", "rich",
    "scipy", "sklearn", "pandas", "pyarrow", "torchvision", "requests", "httpx", "tqdm", "hypothesis", "pytest",
)  # fmt: skip


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "statement", ["import lmlangevin", "import lmlangevin.core", "from lmlangevin import LMLConfig"]
)
def test_the_core_adds_torch_and_the_standard_library_alone(statement: str) -> None:
    out = run(f"""
        import sys
        import torch
        # What torch imports by itself the first time that it makes a tensor belongs to torch.
        torch.ones(2) + 1
        before = set(sys.modules)
        {statement}
        from lmlangevin.core import LMLConfig, LMLState, correct
        state = LMLState()
        for k in range(3):
            _, state, _ = correct(torch.ones(2, 3) + k * torch.arange(3.0), state, LMLConfig())
        added = {{name.partition(".")[0] for name in set(sys.modules) - before}}
        print(sorted(added - set(sys.stdlib_module_names) - {{"torch", "lmlangevin"}}))
        print(sorted(name for name in {HEAVY!r} if name in sys.modules and name not in before))
        print(sorted(name for name in sys.modules if name.startswith("lmlangevin.")))
    """)
    foreign, heavy, own = out.splitlines()
    assert foreign == "[]" and heavy == "[]"
    allowed = ("lmlangevin.core", "lmlangevin._version")
    assert not [name for name in ast.literal_eval(own) if not name.startswith(allowed)]


def test_the_package_imports_without_diffusers() -> None:
    """With diffusers made unimportable the core works, and what needs it says so by an ImportError."""
    run("""
        import sys
        sys.modules["diffusers"] = None
        import lmlangevin
        import torch
        n = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
        assert not torch.equal(lmlangevin.lm_direction(n, n.flip(1), kappa=0.5, damping=1.0), n)
        assert not hasattr(lmlangevin, "nonsense")
        try:
            lmlangevin.with_lml
        except ImportError as error:
            assert "diffusers" in str(error)
        else:
            raise AssertionError
    """)


def test_all_public_names_exist() -> None:
    import lmlangevin

    for name in lmlangevin.__all__:
        assert getattr(lmlangevin, name) is not None
    assert issubclass(lmlangevin.LMLError, ValueError)
    # The design fixes these names.
    fixed = {"LMLConfig", "LMLState", "lm_direction", "correct", "apply_lml", "remove_lml", "with_lml"}
    assert fixed <= set(lmlangevin.__all__)


@pytest.mark.parametrize("name", ["nonsense", "NonsenseLMLScheduler", "LMLScheduler", "DDIMScheduler", "ModelMixin"])
def test_unknown_names_are_attribute_errors(name: str) -> None:
    import lmlangevin

    with pytest.raises(AttributeError, match=name):
        getattr(lmlangevin, name)
    assert not hasattr(lmlangevin, name)
