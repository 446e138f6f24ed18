"""The sheet of several samplers' images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmlangevin.core import LMLError
from lmlangevin.plot import contact_sheet


def rows(counts: tuple[int, ...]) -> list[tuple[list[str], torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(["arm", "line"], torch.rand((n, 3, 8, 8), generator=generator) * 2 - 1) for n in counts]


def test_images_are_enlarged_in_rows_and_the_captions_stand_below() -> None:
    given = rows((3, 3))
    bare, told = (contact_sheet(given, title="t", captions=c) for c in (None, ["one", "two words", "three long words"]))
    assert bare.width == told.width and told.height > bare.height + 10
    pixels = np.asarray(told)
    first = ((given[0][1][0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    big = first.repeat(16, 0).repeat(16, 1)
    places = [
        (y, x)
        for y in range(pixels.shape[0] - 128)
        for x in range(140, 200)
        if (pixels[y, x] == big[0, 0]).all() and (pixels[y : y + 128, x : x + 128] == big).all()
    ]
    assert len(places) == 1


@pytest.mark.parametrize(("counts", "captions"), [((2, 3), None), ((2, 2), ["one"]), ((), None)])
def test_unequal_rows_are_refused(counts: tuple[int, ...], captions: list[str] | None) -> None:
    with pytest.raises(LMLError, match="give equally many"):
        contact_sheet(rows(counts), title="t", captions=captions)
