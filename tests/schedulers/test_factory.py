"""`with_lml`: real subclasses with their bases' signatures, under names that `lmlangevin` resolves."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config

import lmlangevin
from lmlangevin import LMLError, with_lml
from lmlangevin.schedulers import build_scheduler
from lmlangevin.schedulers.mixin import LML_DEFAULTS

NAMES = [
    "DDIM", "PNDM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "EulerDiscrete", "FlowMatchEulerDiscrete",
]  # fmt: skip


class OwnScheduler(DDIMScheduler):
    """A base of the user's, with a constructor of its own."""

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, flavour: str = "mild", gentle: bool = True) -> None:
        super().__init__(num_train_timesteps=num_train_timesteps, clip_sample=False)

    def step(self, model_output: Any, timestep: Any, sample: Any, extra: float = 1.0, return_dict: bool = True) -> Any:
        """A step with an argument that the base does not have."""
        return super().step(extra * model_output, timestep, sample, return_dict=return_dict)


class InheritingScheduler(EulerDiscreteScheduler):
    """A base of the user's that adds nothing."""


class VariadicScheduler(DDIMScheduler):
    """A base whose constructor collects further keys under a name of its own."""

    def __init__(self, num_train_timesteps: int = 1000, **extra: Any) -> None:
        super().__init__(num_train_timesteps=num_train_timesteps)
        self.extra = extra


@pytest.mark.parametrize("name", NAMES)
def test_the_design_s_names(name: str) -> None:
    base = getattr(diffusers, f"{name}Scheduler")
    cls = getattr(lmlangevin, f"{name}LMLScheduler")
    assert cls is with_lml(base) is with_lml(base) is with_lml(cls)
    assert issubclass(cls, base) and issubclass(cls, SchedulerMixin)
    assert cls.__name__ == cls.__qualname__ == f"{name}LMLScheduler" and cls.__module__ == "lmlangevin"
    assert lmlangevin.SchedulerMixin is SchedulerMixin  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(cls)) is cls
    assert cls.order == base.order and cls._compatibles == base._compatibles


@pytest.mark.parametrize("method", ["step", "set_timesteps"])
def test_methods_have_the_base_s_signature(sampler: Any, method: str) -> None:
    cls = with_lml(sampler.base)
    assert inspect.signature(getattr(cls, method)) == inspect.signature(getattr(sampler.base, method))


def test_the_constructor_is_the_base_s_plus_the_keys(sampler: Any) -> None:
    base = inspect.signature(sampler.base.__init__).parameters
    merged = inspect.signature(with_lml(sampler.base).__init__).parameters
    assert list(merged)[: len(base)] == list(base)
    assert all(merged[key] == base[key] for key in base)
    assert {key: p.default for key, p in merged.items() if key not in base} == LML_DEFAULTS
    # The keys that the design fixes for this stage are among them.
    assert {"gain", "kappa", "damping", "damping_mode", "placement", "rank", "control", "lml_enabled"} <= set(merged)
    assert all(merged[key].kind is inspect.Parameter.KEYWORD_ONLY for key in LML_DEFAULTS)


def test_arguments_reach_the_base_by_position_and_by_name() -> None:
    made = with_lml(DDIMScheduler)(500, 0.001, beta_end=0.03, gain=0.2)
    base = DDIMScheduler(500, 0.001, beta_end=0.03)
    assert torch.equal(made.betas, base.betas)
    assert {k: v for k, v in made.config.items() if k in base.config and k[0] != "_"} == {
        k: v for k, v in base.config.items() if k[0] != "_"
    }
    assert made.config.gain == 0.2 and isinstance(made, DDIMScheduler)
    with pytest.raises(TypeError):
        with_lml(DDIMScheduler)(gain=0.2, nonsense=1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("HeunDiscreteScheduler", "twice"),
        ("KDPM2DiscreteScheduler", "twice"),
        ("KDPM2AncestralDiscreteScheduler", "twice"),
        ("FlowMatchHeunDiscreteScheduler", "twice"),
        ("DPMSolverSinglestepScheduler", "several times"),
        ("KarrasVeScheduler", "step"),
        ("ScoreSdeVeScheduler", "step"),
        ("EDMEulerScheduler", "EDM"),
        ("EDMDPMSolverMultistepScheduler", "EDM"),
        ("LCMScheduler", "distilled"),
        ("TCDScheduler", "distilled"),
        ("RePaintScheduler", "back and forth"),
        ("CogVideoXDPMScheduler", "step does not take"),
    ],
)
def test_bases_that_are_refused(name: str, reason: str) -> None:
    base = getattr(diffusers, name)
    with pytest.raises(LMLError, match=f"base={name} cannot be corrected: .*{reason}") as caught:
        with_lml(base)
    assert "\n" not in str(caught.value) and "; use" in str(caught.value)
    with pytest.raises(LMLError):  # a subclass of the user's as well
        with_lml(type("MineScheduler", (base,), {}))


@pytest.mark.parametrize(
    "name",
    ["CMStochasticIterativeScheduler", "FlowMatchLCMScheduler", "SCMScheduler", "VQDiffusionScheduler"],
)
def test_consistency_and_token_schedulers_are_refused(name: str) -> None:
    with pytest.raises(LMLError):
        with_lml(getattr(diffusers, name))


@pytest.mark.parametrize("wrong", [torch.nn.Linear, int])
def test_other_classes_are_refused(wrong: type) -> None:
    with pytest.raises(LMLError, match="is no diffusers scheduler"):
        with_lml(wrong)  # type: ignore[type-var]


def test_an_instance_is_refused_in_words() -> None:
    with pytest.raises(LMLError, match="base="):
        with_lml(DDIMScheduler())  # type: ignore[type-var]


def test_skip_prk_steps_is_required() -> None:
    with pytest.raises(LMLError, match="skip_prk_steps=False .*give skip_prk_steps=True"):
        lmlangevin.PNDMLMLScheduler(gain=0.2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["Nonsense", "Ddim", "Flax", ""])
def test_nonsense_names(name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(lmlangevin, f"{name}LMLScheduler")


def test_a_base_of_the_user_s() -> None:
    cls = with_lml(OwnScheduler)
    assert cls.__name__ == "OwnLMLScheduler"
    assert lmlangevin.OwnLMLScheduler is cls  # type: ignore[attr-defined]
    made = cls(flavour="hot", gain=0.4)
    assert made.config.flavour == "hot" and made.config.gentle is True and made.config.gain == 0.4
    assert "extra" in inspect.signature(cls.step).parameters
    made.set_timesteps(4)
    plain = OwnScheduler()
    plain.set_timesteps(4)
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    t = made.timesteps[0]
    assert torch.equal(made.step(x, t, x, 0.5).prev_sample, plain.step(x, t, x, 0.5).prev_sample)
    made.set_timesteps(4)
    assert torch.equal(made.step(x, t, x, 0.5, return_dict=False)[0], plain.step(x, t, x, extra=0.5)[0])
    assert with_lml(InheritingScheduler)(gain=0.1).config.gain == 0.1


def test_a_base_of_the_user_s_pickles_through_with_lml() -> None:
    made = with_lml(OwnScheduler)(flavour="hot", gain=0.4, record=True)
    made.set_timesteps(5)
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    for t in made.timesteps[:2]:
        x = made.step(torch.tanh(x), t, x).prev_sample
    copies = (pickle.loads(pickle.dumps(made)), copy.deepcopy(made))
    t = made.timesteps[2]
    want = made.step(torch.tanh(x), t, x).prev_sample
    for other in copies:
        assert type(other) is type(made) and other.config == made.config and other is not made
        # It goes on where the original stood, and shares nothing with it.
        assert len(other.lml_history) == 2
        assert torch.equal(other.step(torch.tanh(x), t, x).prev_sample, want)
        assert len(other.lml_history) == 3
    assert len(made.lml_history) == 3


def test_a_constructor_that_collects_keys() -> None:
    assert with_lml(VariadicScheduler)(gain=0.5).extra == {}


def test_a_user_s_class_does_not_take_diffusers_name() -> None:
    own = type("LMSDiscreteScheduler", (diffusers.LMSDiscreteScheduler,), {})
    made = with_lml(own)
    try:
        assert issubclass(lmlangevin.LMSDiscreteLMLScheduler, diffusers.LMSDiscreteScheduler)  # type: ignore[attr-defined]
        assert lmlangevin.LMSDiscreteLMLScheduler is with_lml(diffusers.LMSDiscreteScheduler)  # type: ignore[attr-defined]
    finally:
        from lmlangevin.schedulers import factory

        del factory._CLASSES[own], made


def test_a_base_whose_name_does_not_end_in_scheduler() -> None:
    cls = with_lml(type("MySampler", (DDIMScheduler,), {}))
    assert cls.__name__ != "MySampler"
    assert getattr(lmlangevin, cls.__name__) is cls


def test_hasattr_of_a_refused_name() -> None:
    assert not hasattr(lmlangevin, "HeunDiscreteLMLScheduler")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"kappa": 3}, "kappa=3"),
        ({"gain": 0.3, "kappa": 0.5}, "gain=0.3 cannot be combined"),
        ({"damping": 0}, "damping=0"),
        ({"gain": 0.3, "rank": 0}, "rank=0"),
        ({"gain": 0.3, "control": "magic"}, "control='magic'"),
        ({"gain": 0.3, "placement": "middle"}, "placement='middle'"),
        ({"gain": 0.3, "lml_enabled": "yes"}, "lml_enabled='yes'"),
        ({"gain": 0.3, "record": 1}, "record=1"),
        ({"gain": "strong"}, "gain='strong'"),
        ({"gain": 0.3, "damping_mode": "log"}, "damping_mode='log'"),
        ({"preset": 5}, "preset=5"),
        ({"gain": 0.1, "preset": "mine"}, "preset='mine'"),
    ],
)  # fmt: skip
def test_wrong_keys_are_one_error(keys: dict[str, Any], words: str, table: Any) -> None:
    with pytest.raises(LMLError) as caught:
        with_lml(DDIMScheduler)(**keys)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_build_scheduler_refuses_in_words() -> None:
    config = DDIMScheduler().config
    with pytest.raises(LMLError, match="scheduler='dimm' is unknown; give one of ddim"):
        build_scheduler("dimm", config)
    with pytest.raises(LMLError, match="grid='karras' is not offered by DDIM; give one of leading, trailing, linspace"):
        build_scheduler("ddim", config, grid="karras")
    made: Any = build_scheduler("dpmpp-3m", config, grid="lu", lml={"gain": 0.1})
    assert made.config.use_lu_lambdas is True and made.config.solver_order == 3 and made.config.gain == 0.1
    plain = build_scheduler("unipc", config, grid="karras")
    assert type(plain) is diffusers.UniPCMultistepScheduler and plain.config.use_karras_sigmas is True


def test_a_step_without_set_timesteps_is_the_base_s() -> None:
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for base in (EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler):
        plain, made = base(), with_lml(base)(gain=0.5)
        out = [s.step(torch.tanh(x), s.timesteps[0], x).prev_sample for s in (plain, made)]
        assert torch.equal(*out)
