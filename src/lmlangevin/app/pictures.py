"""The three pictures of the page: the plain images, those with LML, and both under a line that can be dragged.

They go into the page itself and not into files, which others could ask for.
"""

from __future__ import annotations

import base64

from PIL import Image

from lmlangevin.app.runs import SHOWN, Snapshot
from lmlangevin.generation.images import make_grid, png_bytes

GRID_SIDE = 512
"""Side in pixels of a grid of small images, about."""

_UNFINISHED = (225, 227, 231)

TEMPLATE = """
<div class="lml-pictures">
  <figure><figcaption>Plain</figcaption>
    <img class="lml-plain" src="${value.plain}" alt="Images of the plain sampler"></figure>
  <figure><figcaption>Drag: plain on the left, LML on the right</figcaption>
    <div class="lml-wipe"><img src="${value.plain}" alt=""><img class="lml-over" src="${value.lml}" alt="">
      <div class="lml-line"></div>
      <input type="range" min="0" max="100" step="0.5" value="50"
        aria-label="Where the plain images end and those with LML begin"></div></figure>
  <figure><figcaption>With LML</figcaption>
    <img class="lml-lml" src="${value.lml}" alt="Images of the same seeds with LML"></figure>
</div>
"""
"""The pictures as HTML, in the template language of gradio; `value` is what `picture_values` returns."""

SCRIPT = """
let at = '50';
element.addEventListener('input', event => {
  at = event.target.value;
  element.style.setProperty('--lml-at', at + '%');
});
watch('value', () => { element.querySelector('input').value = at; });
"""
"""Moves the line as it is dragged. New pictures come with a new control, which is put where the old one stood."""


def picture_values(snapshot: Snapshot | None) -> dict[str, str]:
    """Return the grids of both samplers as data URLs; images that are not finished are grey.

    Args:
        snapshot: What is known of a run; None before the first.

    Returns:
        `"plain"` and `"lml"`, two pictures of one size.
    """
    found = {} if snapshot is None else snapshot.pictures
    size = SHOWN if snapshot is None else min(SHOWN, snapshot.count)
    shape = next((run[0].size for run in found.values() if run), (32, 32))
    blank = Image.new("RGB", shape, _UNFINISHED)
    columns = max(1, round(size**0.5 + 0.49))
    values = {}
    for name in ("plain", "lml"):
        run = found.get(name, [])
        grid = make_grid([*run, *[blank] * (size - len(run))], columns, GRID_SIDE // columns)
        values[name] = "data:image/png;base64," + base64.b64encode(png_bytes(grid)).decode("ascii")
    return values
