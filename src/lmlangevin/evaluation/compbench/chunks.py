"""Noun chunks of a prompt, which become the questions of BLIP-VQA."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TypeAlias

from lmlangevin.core.errors import LMLError
from lmlangevin.install import install_hint

Chunker: TypeAlias = Callable[[str], list[str]]
"""Maps a prompt to its noun chunks, in order."""

SPACY_MODEL = "en_core_web_sm"
MOST = 8
"""Chunks that are asked about, at most: the official script's `--np_num`."""

LEFT_OUT = frozenset({"top", "the side", "the left", "the right"})
"""Chunks that name no thing, by their exact text."""


def questions(prompt: str, chunker: Chunker) -> tuple[str, ...]:
    """Return the questions about a prompt: `"a red cube?"` for each of its first chunks that name a thing.

    A prompt without any has no questions, and the official script gives its images the score 1.
    """
    return tuple(f"{chunk}?" for chunk in chunker(prompt) if chunk not in LEFT_OUT)[:MOST]


def chunker_name(chunker: Chunker) -> str:
    """Return what results call a chunker: its `name` where it has one, otherwise that of the function or class."""
    return str(getattr(chunker, "name", None) or getattr(chunker, "__qualname__", type(chunker).__qualname__))


class SpacyChunker:
    """The noun chunks of spaCy's small English pipeline, as the official script takes them.

    Another version of the pipeline may cut a sentence otherwise, so `name` holds the versions.

    Raises:
        LMLError: spaCy or its pipeline is not installed.
    """

    def __init__(self) -> None:
        try:
            spacy = importlib.import_module("spacy")
            self._pipeline = spacy.load(SPACY_MODEL)
        except (ImportError, OSError) as error:
            raise LMLError(
                f"spaCy's {SPACY_MODEL}: cannot be loaded ({' '.join(str(error).split())[:120]}); "
                f"{install_hint('compbench')} and then python -m spacy download {SPACY_MODEL}"
            ) from error
        self.name = f"spacy {spacy.__version__}, {SPACY_MODEL} {self._pipeline.meta['version']}"

    def __call__(self, prompt: str) -> list[str]:
        """Return the noun chunks of a prompt."""
        return [chunk.text for chunk in self._pipeline(prompt).noun_chunks]
