"""The two passes over memory that a correction takes: one that reduces, one that writes.

The first reads the prediction n and the earlier predictions p_j and leaves a few numbers a sample; the second reads
them once more and writes the corrected prediction, with the copy of n that the next step needs. Every sum is over
D_j = p_j - n, which is formed where it is used and never kept.

Compiled (`torch.compile`) each pass is one kernel over whole tensors. Otherwise the same operations run on blocks of
bounded size, in a few buffers that stay in the cache: a correction then allocates nothing that grows with the
prediction but what it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CPU_BLOCK = 2**19
"""Elements of a block on a CPU: enough to outweigh what starting an operation costs, few enough for the cache."""

DEVICE_BLOCK = 2**24
"""Elements of a block elsewhere, where launching an operation costs more than memory does."""

PROBE = 4096
"""Elements of each sample that the shift is estimated from where a pass is one kernel."""


class Moments(NamedTuple):
    """What the first pass finds of each sample, with D_j = a_j n + P_j and <n, P_j> = 0.

    Attributes:
        norm2: (batch,): ||n||^2.
        along: r tensors (batch,): a_j.
        gram: r x r tensors (batch,): <P_i, P_j> / ||n||^2.
    """

    norm2: Tensor
    along: list[Tensor]
    gram: list[list[Tensor]]


def scalar_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of per-sample scalars: float64, or float32 where the device has nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


class Passes:
    """The two passes over one prediction; the second needs numbers that follow from what the first finds.

    Args:
        n: Prediction, (batch, *event), any float dtype; computed in float32 or wider.
        previous: r >= 1 earlier predictions, each of n's shape, dtype and device.
    """

    def __init__(self, n: Tensor, previous: Sequence[Tensor]) -> None:
        self._tensors = [n, *previous]
        self._work = torch.promote_types(n.dtype, torch.float32)
        self._whole = _takes_whole(self._tensors)
        self._buffers: Tensor | None = None
        if self._whole:
            return
        # The elements in the order of memory, so that flattening them copies nothing.
        self._order = None if n.is_contiguous() else [0, *sorted(range(1, n.ndim), key=lambda k: -n.stride(k))]
        self._flat = [self._flatten(t) for t in self._tensors]
        rows, columns = self._flat[0].shape
        size = CPU_BLOCK if n.device.type == "cpu" else DEVICE_BLOCK
        height, width = min(rows, max(1, size // columns)), min(columns, size)
        self._rows = [slice(top, min(top + height, rows)) for top in range(0, rows, height)]
        self._columns = [slice(left, min(left + width, columns)) for left in range(0, columns, width)]
        self._buffers = torch.empty((len(previous) + 2, height * width), dtype=self._work, device=n.device)

    def moments(self) -> Moments:
        """Reduce the prediction and the earlier ones to the inner products that a solve needs.

        ||P||^2 = ||D||^2 - <n, D>^2 / ||n||^2 cancels where D is nearly parallel to n, and to form P first would read
        everything once more. So D is shifted by what its first elements say that it is along n, S = D - a' n, and the
        sums are of S: what S has along n is then no larger than what it has across.
        """
        if self._whole:
            shift = self._along([t.flatten(1)[:, :PROBE] for t in self._tensors])
            return self._settle(self._products(self._tensors, shift), shift)
        sums, shifts = [], []
        for rows in self._rows:
            blocks = [[t[rows, columns] for t in self._flat] for columns in self._columns]
            shift = self._along(blocks[0])
            total = self._products(blocks[0], shift)
            for block in blocks[1:]:
                total = total + self._products(block, shift)
            sums.append(total)
            shifts.append(shift)
        if len(sums) == 1:
            return self._settle(sums[0], shifts[0])
        return self._settle(torch.cat(sums, dim=1), [torch.cat(parts) for parts in zip(*shifts, strict=True)])

    def write(
        self,
        scale: Tensor,
        gains: Sequence[Tensor],
        keep: Tensor,
        *,
        out: Tensor | None = None,
        copy: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Write d = scale * n + sum_j gains_j D_j, and n itself for the samples that are to be kept.

        Args:
            scale: (batch,).
            gains: r tensors (batch,).
            keep: (batch,) bool.
            out: Where to write d, of n's shape, dtype and device; may be n itself. None allocates it.
            copy: Whether to write a copy of n as well.

        Returns:
            d and the copy (None without one), in n's dtype; values beyond its range are cut to its largest.
        """
        n = self._tensors[0]
        scale, gains = scale.to(self._work), [gain.to(self._work) for gain in gains]
        if self._whole:
            kept = n.clone() if copy else None
            d = self._combine(self._tensors, scale, gains, keep).to(n.dtype)
            return (d if out is None else out.copy_(d)), kept
        result, flat_result = self._target(out)
        kept, flat_kept = self._target(None) if copy else (None, None)
        for rows in self._rows:
            part = scale[rows], [gain[rows] for gain in gains], keep[rows]
            for columns in self._columns:
                block = [t[rows, columns] for t in self._flat]
                if flat_kept is not None:
                    flat_kept[rows, columns].copy_(block[0])  # before d, which may be written over n
                flat_result[rows, columns].copy_(self._combine(block, *part))
        if out is not None and out is not result:
            out.copy_(result)
        return result if out is None else out, kept

    # On a block, or on whole tensors --------------------------------------------------------------------------------

    def _buffer(self, slot: int, like: Tensor) -> Tensor | None:
        """Return a buffer of a block's shape; None where an operation is to allocate its result."""
        return None if self._buffers is None else self._buffers[slot, : like.numel()].view(like.shape)

    def _widen(self, slot: int, t: Tensor) -> Tensor:
        """Return a block in float32 or wider: itself where it is that already."""
        if t.dtype == self._work:
            return t
        buffer = self._buffer(slot, t)
        return t.to(self._work) if buffer is None else buffer.copy_(t)

    def _difference(self, block: Sequence[Tensor], j: int, n: Tensor) -> Tensor:
        """Return D_j of a block, whose n was widened already, in a place of its own."""
        return torch.sub(self._widen(j + 1, block[j + 1]), n, out=self._buffer(j + 1, n))

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the inner product of every row. torch.sum adds in a tree; torch.dot loses two digits on a block."""
        return torch.mul(a, b, out=self._buffer(-1, a)).flatten(1).sum(1)

    def _along(self, block: Sequence[Tensor]) -> list[Tensor]:
        """Return a_j as far as a block tells."""
        n = self._widen(0, block[0])
        norm2 = self._dot(n, n)
        found = [self._dot(n, self._difference(block, j, n)) / norm2 for j in range(len(block) - 1)]
        # A block of zeros says nothing.
        return [torch.where(norm2 > 0, a, 0) for a in found]

    def _products(self, block: Sequence[Tensor], shift: Sequence[Tensor]) -> Tensor:
        """Return <n, n>, all <n, S_j>, and all <S_i, S_j> with j <= i, one below the other, (numbers, rows)."""
        n = self._widen(0, block[0])
        offsets = [self._difference(block, j, n).addcmul_(n, _column(a, n), value=-1) for j, a in enumerate(shift)]
        pairs = [(offsets[i], offsets[j]) for i in range(len(offsets)) for j in range(i + 1)]
        found = [self._dot(n, n), *(self._dot(n, s) for s in offsets), *(self._dot(a, b) for a, b in pairs)]
        return torch.stack(found).to(scalar_dtype(n.device))

    def _settle(self, sums: Tensor, shift: Sequence[Tensor]) -> Moments:
        """Return the moments of all elements, from the sums of what `_products` returned."""
        r = len(shift)
        norm2, *rest = sums.unbind(0)
        left = [value / norm2 for value in rest[:r]]
        products = iter(rest[r:])
        gram = [[norm2] * r for _ in range(r)]
        for i in range(r):
            for j in range(i + 1):
                # Of S_i = P_i + left_i n; what cancels here is hardly larger than what stays.
                across = next(products) / norm2 - left[i] * left[j]
                gram[i][j] = gram[j][i] = across.clamp_min(0) if i == j else across
        return Moments(norm2, [a + b for a, b in zip(shift, left, strict=True)], gram)

    def _combine(self, block: Sequence[Tensor], scale: Tensor, gains: Sequence[Tensor], keep: Tensor) -> Tensor:
        """Return d of a block, in float32 or wider, cut to the range of the block's own dtype."""
        n = self._widen(0, block[0])
        d = torch.mul(n, _column(scale, n), out=self._buffer(-1, n))
        for j, gain in enumerate(gains):
            d = d.addcmul_(self._difference(block, j, n), _column(gain, n))
        if block[0].dtype != self._work:
            # An element of d can exceed every element of n (their norms are equal), and float16 ends at 65504.
            limit = torch.finfo(block[0].dtype).max
            d = d.clamp_(-limit, limit)
        return _select(_column(keep, n), n, d)

    # Layout -----------------------------------------------------------------------------------------------------------

    def _flatten(self, t: Tensor) -> Tensor:
        return (t if self._order is None else t.permute(self._order)).flatten(1)

    def _target(self, out: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return a tensor to write to, `out` if its flattening is a view, and that flattening."""
        if out is not None:
            flat = self._flatten(out)
            if flat.data_ptr() == out.data_ptr():
                return out, flat
        n = self._tensors[0]
        if self._order is None:
            fresh = torch.empty(n.shape, dtype=n.dtype, device=n.device)
            return fresh, fresh.flatten(1)
        fresh = torch.empty([n.shape[k] for k in self._order], dtype=n.dtype, device=n.device)
        return fresh.permute([self._order.index(k) for k in range(n.ndim)]), fresh.flatten(1)


def _takes_whole(tensors: Sequence[Tensor]) -> bool:
    """Whether a pass goes over whole tensors: for a compiler, for gradients, and where there is nothing to cut."""
    n = tensors[0]
    if torch.compiler.is_compiling() or n.device.type == "meta" or n.numel() == 0:
        return True
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _column(value: Tensor, like: Tensor) -> Tensor:
    return value.view((-1,) + (1,) * (like.ndim - 1))


_BITS = {4: torch.int32, 8: torch.int64}


def _select(keep: Tensor, n: Tensor, d: Tensor) -> Tensor:
    """Return n where it is to be kept, bit for bit, and d, which may be overwritten, elsewhere."""
    if torch.compiler.is_compiling() or n.device.type != "cpu" or d.requires_grad:
        return torch.where(keep, n, d)
    # On a CPU torch.where takes as long as everything else here together; whole-number operations do not.
    bits = _BITS[n.element_size()]
    mask, own = keep.to(bits).sub_(1), n.view(bits)
    d.view(bits).bitwise_xor_(own).bitwise_and_(mask).bitwise_xor_(own)
    return d
