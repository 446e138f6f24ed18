"""ComfyUI node: Euler and DPM++ 2M with the LML correction, as a SAMPLER for the custom sampling nodes.

The samplers are the package's own (`lmlangevin.samplers`); this file only gives them inputs.
"""

from __future__ import annotations

from typing import Any

from comfy.samplers import KSAMPLER  # pyright: ignore[reportMissingImports]

from lmlangevin.samplers import sample_lml_dpmpp_2m, sample_lml_euler

BASES = {"euler": sample_lml_euler, "dpmpp_2m": sample_lml_dpmpp_2m}
CONTROLS = ("preset", "constant", "adaptive", "off")


class SamplerLML:
    """A sampler whose predictions are turned by the Levenberg-Marquardt-Langevin correction."""

    DESCRIPTION = (
        "Levenberg-Marquardt-Langevin (LML) sampling: each prediction is turned by a small angle, which the one before "
        "it determines. No further model evaluations. It is meant for few steps, about 5 to 20."
    )
    CATEGORY = "sampling/custom_sampling/samplers"
    RETURN_TYPES = ("SAMPLER",)
    OUTPUT_TOOLTIPS = ("For SamplerCustom or SamplerCustomAdvanced.",)
    FUNCTION = "get_sampler"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return ComfyUI's description of the inputs."""
        return {
            "required": {
                "base_sampler": (
                    list(BASES),
                    {"default": "euler", "tooltip": "The sampler that the correction is added to."},
                ),
                "control": (
                    list(CONTROLS),
                    {
                        "default": "preset",
                        "tooltip": "Who chooses the gain. preset: the default of the base sampler, 0.35 for euler and "
                        "none for dpmpp_2m. constant: the gain below, at every step. adaptive: each step by what the "
                        "one before it missed; not for strong guidance (cfg above about 4). off: the base sampler.",
                    },
                ),
                "gain": (
                    "FLOAT",
                    {
                        "default": 0.35,
                        "min": -1.0,
                        "max": 2.0,
                        "step": 0.05,
                        "round": 0.001,
                        "tooltip": "The strength of control=constant, not used by the others. 0.2 to 0.7 suits euler; "
                        "with dpmpp_2m more than 0.1 usually makes images worse. 0 is the base sampler.",
                    },
                ),
            }
        }

    def get_sampler(self, base_sampler: str, control: str, gain: float) -> tuple[Any]:
        """Return the SAMPLER that the inputs describe.

        Args:
            base_sampler: `"euler"` or `"dpmpp_2m"`.
            control: `"preset"`, `"constant"`, `"adaptive"` or `"off"`.
            gain: The gain of `"constant"`.
        """
        options: dict[str, Any] = {
            "preset": {},
            "constant": {"gain": gain},
            "adaptive": {"control": "adaptive"},
            "off": {"gain": 0.0},
        }[control]
        return (KSAMPLER(BASES[base_sampler], extra_options=options),)


NODE_CLASS_MAPPINGS = {"SamplerLML": SamplerLML}
NODE_DISPLAY_NAME_MAPPINGS = {"SamplerLML": "Sampler LML"}
