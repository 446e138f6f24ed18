"""Generation of images with a manifest: per-image seeds, counted evaluations, comparison of samplers."""

from lmlangevin.generation.config import GenerateConfig
from lmlangevin.generation.job import GenerateResult, generate
from lmlangevin.generation.models import LoadedModel, load_model
from lmlangevin.generation.plan import RunResult
from lmlangevin.generation.sampling import CountCalls, sample
from lmlangevin.generation.seeds import image_seeds, initial_noise, start_images

__all__ = [
    "CountCalls",
    "GenerateConfig",
    "GenerateResult",
    "LoadedModel",
    "RunResult",
    "generate",
    "image_seeds",
    "initial_noise",
    "load_model",
    "sample",
    "start_images",
]
