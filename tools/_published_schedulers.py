"""Scheduler configurations as they are published with the models."""

from __future__ import annotations

from typing import Any

_BETAS_SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
_PNDM_SD = {**_BETAS_SD, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "clip_sample": False}

SCHEDULER_CONFIGS: dict[str, dict[str, Any]] = {
    "google/ddpm-cifar10-32": {
        "_class_name": "DDPMScheduler",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "num_train_timesteps": 1000,
        "clip_sample": True,
        "variance_type": "fixed_large",
    },
    "CompVis/ldm-celebahq-256": {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "clip_sample": False,
    },
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {"_class_name": "PNDMScheduler", **_PNDM_SD},
    "stabilityai/stable-diffusion-2-base": {"_class_name": "PNDMScheduler", **_PNDM_SD, "prediction_type": "epsilon"},
    "stabilityai/stable-diffusion-2-1": {"_class_name": "DDIMScheduler", **_PNDM_SD, "prediction_type": "v_prediction"},
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "_class_name": "EulerDiscreteScheduler",
        **_PNDM_SD,
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
    "PixArt-alpha/PixArt-XL-2-1024-MS": {
        "_class_name": "DPMSolverMultistepScheduler",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "num_train_timesteps": 1000,
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
        "prediction_type": "epsilon",
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "thresholding": False,
    },
    "stabilityai/stable-diffusion-3-medium-diffusers": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 3.0,
    },
    "black-forest-labs/FLUX.1-dev": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    },
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
        "lower_order_final": True,
        "final_sigmas_type": "zero",
        "timestep_spacing": "linspace",
    },
    "Lightricks/LTX-Video": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": True,
        "base_shift": 0.95,
        "max_shift": 2.05,
        "base_image_seq_len": 1024,
        "max_image_seq_len": 4096,
        "shift_terminal": 0.1,
        "invert_sigmas": False,
    },
}
"""Scheduler configurations as they are published with the models, by their names on the hub."""


def scheduler(published: str) -> Any:
    """Build a scheduler from a published configuration.

    Args:
        published: A key of `SCHEDULER_CONFIGS`.
    """
    import diffusers

    config = SCHEDULER_CONFIGS[published]
    return getattr(diffusers, config["_class_name"]).from_config(config)
