"""Scenes: drawn pictures of coloured, textured shapes with captions, on which text-to-image can be scored exactly."""

from lmlangevin.scenes.drawing import SIZE, Scenes, draw, relation_between, sample_scenes, training_scenes
from lmlangevin.scenes.language import (
    COLOURS,
    RELATIONS,
    SHAPES,
    TEXTURES,
    UNSEEN_COLOURS,
    UNSEEN_TEXTURES,
    VOCABULARY,
    Noun,
    Request,
    parse_prompt,
    unknown_words,
)
from lmlangevin.scenes.models import SCENES, load_pipeline, model_source
from lmlangevin.scenes.prompts import CATEGORIES, DEMO_PROMPTS, scene_prompts
from lmlangevin.scenes.reader import SceneReader, SeenObject, load_reader, read_scenes
from lmlangevin.scenes.scores import SCORES, SceneScore, matches, score_scene

__all__ = [
    "score_scene",
    "SceneScore",
    "SCORES",
    "read_scenes",
    "SCENES",
    "load_pipeline",
    "model_source",
    "load_reader",
    "SeenObject",
    "SceneReader",
    "scene_prompts",
    "DEMO_PROMPTS",
    "CATEGORIES",
    "COLOURS",
    "RELATIONS",
    "SHAPES",
    "SIZE",
    "TEXTURES",
    "UNSEEN_COLOURS",
    "UNSEEN_TEXTURES",
    "VOCABULARY",
    "Noun",
    "Request",
    "Scenes",
    "draw",
    "matches",
    "parse_prompt",
    "relation_between",
    "sample_scenes",
    "training_scenes",
    "unknown_words",
]
