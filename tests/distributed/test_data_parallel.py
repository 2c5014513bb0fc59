"""Models whose attention is ours under PyTorch's own data parallelism."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from needs import TORCH
from ranks import Fleet, group_of
from test_context import LENGTH, TOKENS, Model
from torch import Tensor, nn

import orchard_ops
from orchard_ops import distributed

BATCH = 4


def tokens() -> Tensor:
    """Return the whole batch, with one token more than there are rows."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(TOKENS, (BATCH, LENGTH + 1), generator=generator)


def share_of_loss(
    model: nn.Module, batch: Tensor, group: Any = None, is_cut: bool = False
) -> Tensor:
    """Return what some sequences, or this rank's rows of them, add to the mean."""
    inputs, labels, places = batch[:, :-1], batch[:, 1:], torch.arange(LENGTH)
    if is_cut:
        inputs, labels = (distributed.shard(x, group, 1) for x in (inputs, labels))
        places = distributed.positions(LENGTH, group)
    scores = model(inputs, places).flatten(0, 1)
    return F.cross_entropy(scores, labels.flatten(), reduction="sum") / (BATCH * LENGTH)


def gradients(model: nn.Module) -> list[Tensor]:
    """Return those of all parameters, whole."""
    found = [parameter.grad for parameter in model.parameters()]
    return [x.full_tensor() if hasattr(x, "full_tensor") else x for x in found]


def expected() -> list[Tensor]:
    """Return those of the whole batch in one process."""
    model = Model(0.0)
    share_of_loss(model, tokens()).backward()
    return gradients(model)


def of_sequences(model: nn.Module) -> list[Tensor]:
    """Differentiate one sequence on each rank, of whose gradients the mean is taken."""
    ranks = dist.get_world_size()
    own = tokens()[dist.get_rank() :: ranks]
    (share_of_loss(model, own) * ranks).backward()
    return gradients(model)


def under_ddp() -> list[Tensor]:
    """Keep the parameters whole on each rank."""
    model = Model(0.0, orchard_ops.flash_attention)
    return of_sequences(nn.parallel.DistributedDataParallel(model))


def under_fsdp() -> list[Tensor]:
    """Cut the parameters over the ranks too."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = Model(0.0, orchard_ops.flash_attention)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return of_sequences(fully_shard(model, mesh=mesh))


def under_both() -> list[Tensor]:
    """Cut two sequences over each of two pairs of ranks, under DDP of all four."""
    pairs = [(0, 1), (2, 3)]
    groups = [group_of(pair) for pair in pairs]
    pair = dist.get_rank() // 2
    model = nn.parallel.DistributedDataParallel(Model(0.0))
    with distributed.context_parallel(groups[pair], length=LENGTH):
        own = share_of_loss(model, tokens()[pair::2], groups[pair], is_cut=True)
        (own * dist.get_world_size()).backward()
    return gradients(model)


@pytest.mark.parametrize("step", [under_ddp, under_fsdp, under_both])
def test_gradients_are_those_of_the_whole_batch(fleet: Fleet, step: Any) -> None:
    """On every rank, with DDP, with FSDP2, and with sequences cut under DDP."""
    if step is under_fsdp and TORCH < (2, 6):
        pytest.skip("PyTorch has fully_shard from 2.6 on")
    wanted = expected()
    for found in fleet.asked(step):
        for got, want in zip(found, wanted):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
