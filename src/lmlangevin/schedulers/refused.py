"""The diffusers pipelines that a correction with a history would break, by name.

`tools/pipeline_audit.py` looks through the installed diffusers for pipelines that use their scheduler in an unusual
way; a test demands that each of those is either here or reviewed there.
"""

from __future__ import annotations

_TWICE = "it calls the scheduler twice a timestep, which mixes two predictions of one noise level in LML's history"
_INVERTS = "it inverts images with plain DDIM steps, which corrected steps do not retrace"
_ENCODES = "it encodes an image into the noise of plain sampling steps, which corrected steps do not decode"
_MEAN = "its network predicts the mean velocity of a whole step, in which the curve that LML corrects for is contained"
_DISTILLED = "its model is distilled to jump to the end of the trajectory, so that there is no curve to correct for"
_TOKENS = "it predicts tokens, not noise"
_EDM_LEVELS = (
    "its scheduler is a flow's in name and runs on the noise levels of EDM, up to 80, for which no gain was measured "
    "and which the adaptive control would misread"
)

REFUSED_PIPELINES: dict[str, str] = {
    "AmusedImg2ImgPipeline": _TOKENS,
    "AmusedInpaintPipeline": _TOKENS,
    "AmusedPipeline": _TOKENS,
    "AnyFlowFARPipeline": _MEAN,
    "AnyFlowPipeline": _MEAN,
    "ConsistencyModelPipeline": _DISTILLED,
    "Cosmos2TextToImagePipeline": _EDM_LEVELS,
    "Cosmos2VideoToWorldPipeline": _EDM_LEVELS,
    "CosmosTextToWorldPipeline": _TWICE,
    "CosmosVideoToWorldPipeline": _TWICE,
    "CycleDiffusionPipeline": _ENCODES,
    "DiffusionGemmaPipeline": _TOKENS,
    "KarrasVePipeline": _TWICE,
    "LEditsPPPipelineStableDiffusion": _ENCODES,
    "LEditsPPPipelineStableDiffusionXL": _ENCODES,
    "LLaDA2Pipeline": _TOKENS,
    "LatentConsistencyModelImg2ImgPipeline": _DISTILLED,
    "LatentConsistencyModelPipeline": _DISTILLED,
    "RePaintPipeline": "it moves back and forth in time, so that neighbouring predictions are no neighbours in noise",
    "SanaSprintImg2ImgPipeline": _DISTILLED,
    "SanaSprintPipeline": _DISTILLED,
    "ScoreSdeVePipeline": "it samples with a predictor and a corrector of its own, and calls no step of the scheduler",
    "StableDiffusionDiffEditPipeline": _INVERTS,
    "StableDiffusionParadigmsPipeline": "it solves many timesteps at once, so that no prediction comes before another",
    "StableDiffusionPix2PixZeroPipeline": _INVERTS,
    "VQDiffusionPipeline": _TOKENS,
}
"""Names of pipeline classes, and why they are refused. A subclass is refused as its base is."""


def refusal(pipeline: type) -> str | None:
    """Return why a pipeline class is refused; None for one that is not.

    Args:
        pipeline: The class of a diffusers pipeline.
    """
    return next(
        (REFUSED_PIPELINES[kin.__name__] for kin in pipeline.__mro__ if kin.__name__ in REFUSED_PIPELINES), None
    )
