"""The ComfyUI node, against stubs of the three names of ComfyUI that it uses: comfy, comfy.samplers and KSAMPLER."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmlangevin import LMLError
from lmlangevin._version import __version__
from lmlangevin.samplers import DEFAULT_GAINS, sample_lml_dpmpp_2m, sample_lml_euler

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "integrations" / "comfyui"
SIGMAS = torch.tensor([12.0, 8.0, 5.0, 3.0, 1.8, 1.0, 0.5, 0.2, 0.0])


class KSAMPLER:
    """What ComfyUI does with a sampler function: it hands it a wrapper round the guider round the model."""

    def __init__(self, sampler_function: Any, extra_options: Any = None, inpaint_options: Any = None) -> None:
        self.sampler_function = sampler_function
        self.extra_options = extra_options or {}

    def sample(self, guider: Any, sigmas: Tensor, noised: Tensor, previews: list[Tensor]) -> Tensor:
        def model(x: Tensor, sigma: Tensor, denoise_mask: Any, model_options: Any, seed: int) -> Tensor:
            assert denoise_mask is None and seed == 7
            return guider(x, sigma, model_options=model_options)

        model.inner_model = guider  # type: ignore[attr-defined]
        return self.sampler_function(
            model,
            noised,
            sigmas,
            extra_args={"model_options": {}, "seed": 7, "denoise_mask": None},
            callback=lambda told: previews.append(told["denoised"]),
            disable=True,
            **self.extra_options,
        )


class Guider:
    """A model below a guider: `inner_model.model_sampling` tells ComfyUI, and us, whether it is a flow."""

    def __init__(self, *, flow: bool) -> None:
        parents = (type("CONST", (), {}),) if flow else (type("EPS", (), {}),)
        self.inner_model = types.SimpleNamespace(model_sampling=type("ModelSampling", parents, {})())

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None) -> Tensor:
        return torch.tanh(x / (0.3 + sigma.view(-1, 1, 1, 1)))


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, loaded from its folder under a name of ComfyUI's choice."""
    comfy, samplers = types.ModuleType("comfy"), types.ModuleType("comfy.samplers")
    comfy.samplers, samplers.KSAMPLER = samplers, KSAMPLER  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.samplers", samplers)
    name = "/ComfyUI/custom_nodes/lmlangevin"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def noised() -> Tensor:
    return 12 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(60))


def test_every_node_is_one_that_comfyui_can_call(nodes: Any) -> None:
    assert set(nodes.NODE_CLASS_MAPPINGS) == set(nodes.NODE_DISPLAY_NAME_MAPPINGS) == {"SamplerLML"}
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        required = node.INPUT_TYPES()["required"]
        assert list(required) == ["base_sampler", "control", "gain"]
        for kind, options in required.values():
            assert options["tooltip"] and "default" in options
            assert options["default"] in kind if isinstance(kind, list) else kind == "FLOAT"
        assert required["gain"][1]["min"] <= required["gain"][1]["default"] <= required["gain"][1]["max"]
        assert node.RETURN_TYPES == ("SAMPLER",) and len(node.OUTPUT_TOOLTIPS) == 1
        assert node.CATEGORY and node.DESCRIPTION
        defaults = {name: options["default"] for name, (_, options) in required.items()}
        (sampler,) = getattr(node(), node.FUNCTION)(**defaults)
        assert isinstance(sampler, KSAMPLER)


def test_what_the_words_of_the_node_say_of_the_default(nodes: Any) -> None:
    required = nodes.SamplerLML.INPUT_TYPES()["required"]
    assert required["gain"][1]["default"] == DEFAULT_GAINS["sample_lml_euler"]
    assert f"{DEFAULT_GAINS['sample_lml_euler']} for euler" in required["control"][1]["tooltip"]
    assert DEFAULT_GAINS["sample_lml_dpmpp_2m"] == 0


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("control", ["preset", "constant", "adaptive", "off"])
@pytest.mark.parametrize("base", ["euler", "dpmpp_2m"])
def test_a_node_samples_as_the_package_does(nodes: Any, base: str, control: str, flow: bool) -> None:
    function = {"euler": sample_lml_euler, "dpmpp_2m": sample_lml_dpmpp_2m}[base]
    options: dict[str, Any] = {
        "preset": {"gain": DEFAULT_GAINS[function.__name__]},
        "constant": {"gain": 0.2},
        "adaptive": {"control": "adaptive", "flow": flow},
        "off": {"gain": 0.0},
    }[control]
    sigmas = torch.linspace(1, 0, 9) if flow else SIGMAS
    guider, previews = Guider(flow=flow), []
    (sampler,) = nodes.SamplerLML().get_sampler(base, control, 0.2)
    for _ in range(2):  # ComfyUI keeps the output of a node and uses it again
        made = sampler.sample(guider, sigmas, noised(), previews)
        assert torch.equal(made, function(guider, noised(), sigmas, disable=True, **options))
    assert len(previews) == 16
    torch.testing.assert_close(previews[-1], made, rtol=0, atol=1e-5)
    plain = function(guider, noised(), sigmas, disable=True, gain=0.0)
    assert torch.equal(made, plain) == (control == "off" or (control, base) == ("preset", "dpmpp_2m"))


def test_a_mistake_is_told_in_one_line(nodes: Any) -> None:
    (sampler,) = nodes.SamplerLML().get_sampler("euler", "preset", 0.35)
    with pytest.raises(LMLError, match="give values that fall at every step"):
        sampler.sample(Guider(flow=False), SIGMAS.flip(0), noised(), [])


def test_the_registry_can_read_what_it_needs() -> None:
    """The fields and their forms: docs.comfy.org/registry/specifications."""
    described = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    project, comfy = described["project"], described["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", project["name"]) and "comfyui" not in project["name"]
    # The registry takes three numbers; the package's version may have more.
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"]) and __version__.startswith(project["version"])
    assert project["license"] == {"text": "Apache-2.0"} and project["description"]
    assert comfy["PublisherId"] and comfy["DisplayName"]
    # ComfyUI-Manager reads the one file, the registry the other.
    assert project["dependencies"] == (FOLDER / "requirements.txt").read_text(encoding="utf-8").split()
    (requirement,) = project["dependencies"]
    assert re.match(r"[a-z]+", requirement)[0] == "lmlangevin"  # type: ignore[index]


def test_the_readme_names_what_there_is(nodes: Any) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"**{name}**" in text for name in nodes.NODE_DISPLAY_NAME_MAPPINGS.values())
    assert all(f"`{name}`" in text for name in (*nodes.BASES, *nodes.CONTROLS, "gain", "control", "base_sampler"))
    assert nodes.SamplerLML.CATEGORY.replace("/", " > ") in text
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        assert link.startswith("http") or (FOLDER / link).exists(), link
