"""Read CIFAR-10 from the parquet files of the Hugging Face export (columns `img{bytes, path}` and `label`).

The images in those files are JPEG re-encodings of the original PNG-exact CIFAR-10, so figures measured on them
are not comparable with figures measured on the original arrays.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def read_cifar10(path: str | Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode every image of one parquet file.

    Args:
        path: a parquet file with a struct column `img` (field `bytes`, an encoded image) and an integer column `label`.

    Returns:
        Images, uint8 of shape (N, 3, 32, 32), RGB in 0..255, and labels, int64 of shape (N,).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a decoded image is not 32 by 32.
    """
    import numpy as np
    import pyarrow.parquet as pq
    import torch
    from PIL import Image

    table = pq.read_table(Path(path), columns=["img", "label"])
    encoded = table.column("img").combine_chunks().field("bytes")
    images = np.empty((len(encoded), 32, 32, 3), dtype=np.uint8)
    for index, item in enumerate(encoded):
        with Image.open(io.BytesIO(item.as_py())) as image:
            if image.size != (32, 32):
                raise ValueError(f"path {str(path)!r}: image {index} is {image.size}, give 32x32 CIFAR-10 images")
            images[index] = np.asarray(image.convert("RGB"))
    labels = torch.tensor(table.column("label").to_pylist(), dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels
