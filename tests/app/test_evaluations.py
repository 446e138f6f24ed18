"""A look in at each evaluation of a network, from within a thread."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from lmlangevin.app.evaluations import looking_in


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError


def test_each_call_from_outside_of_a_module_is_one_evaluation() -> None:
    x = torch.ones(2, 3)
    inner = nn.Linear(3, 3)
    outer = nn.Sequential(inner, nn.ReLU())
    seen: list[nn.Module] = []
    with looking_in(seen.append):
        outer(x)
        inner(x)
        outer(x)
    outer(x)
    assert seen == [outer, inner, outer]


def test_what_it_raises_is_raised_before_the_evaluation_and_what_breaks_is_left() -> None:
    seen: list[str] = []

    def look(module: nn.Module) -> None:
        seen.append(type(module).__name__)
        if isinstance(module, nn.ReLU):
            raise KeyError

    with looking_in(look):
        with pytest.raises(ZeroDivisionError):
            nn.Sequential(nn.Identity(), Broken())(torch.ones(1))
        with pytest.raises(KeyError):
            nn.ReLU()(torch.ones(1))
        nn.Identity()(torch.ones(1))
    assert seen == ["Sequential", "ReLU", "Identity"]


def test_the_networks_of_other_threads_are_not_looked_at() -> None:
    seen: list[nn.Module] = []
    with looking_in(seen.append):
        other = threading.Thread(target=lambda: nn.Identity()(torch.ones(1)))
        other.start()
        other.join()
    assert seen == []
