"""One thread for torch: the tests are many and small, and two pools of threads on two cores wait for each other."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
