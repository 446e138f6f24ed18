"""Samplers with k-diffusion's signature, for k-diffusion, ComfyUI and what else calls them so. Imports torch alone."""

from lmlangevin.samplers.options import DEFAULT_GAINS, SamplerOptions
from lmlangevin.samplers.sampling import sample_lml_dpmpp_2m, sample_lml_euler

__all__ = ["DEFAULT_GAINS", "SamplerOptions", "sample_lml_dpmpp_2m", "sample_lml_euler"]
