"""T2I-CompBench: its folder layout, BLIP-VQA, the results of its official scripts, and paired differences.

Written from the description and the file formats of github.com/Karine-Huang/T2I-CompBench, without its code.
"""

from __future__ import annotations

LABEL = "re-implementation, not yet compared with the official scripts on shared images"
"""What stands beside every number that is made here, until both were run on the same images."""

CATEGORIES = ("color", "shape", "texture", "spatial", "3d_spatial", "non_spatial", "numeracy", "complex")
"""The categories of prompts, by the names of their files."""

PROMPTS_EACH = 300
"""Prompts in the validation file of a category."""

IMAGES_EACH = 10
"""Images of each prompt."""
