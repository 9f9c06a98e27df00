"""A teacher: what a trained model thinks of the clear crops, to be kept when they are covered."""

from __future__ import annotations

import torch
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.matching import Distance


class Teacher:
    """Distances of a trained model between clear training crops.

    Args:
        distance: of the teacher's method.
        embedding: what the teacher says of the clear training crops, one row each.
    """

    def __init__(self, distance: Distance, embedding: Embedding) -> None:
        self.distance = distance
        self.embedding = distance.prepare(embedding)

    def matrix(self, rows: Tensor) -> Tensor:
        """Distances `[n, n]` between the clear crops `rows` `[n]`."""
        crops = self.embedding[rows.cpu()]
        return self.distance.matrix(crops, crops).to(rows.device)


def neighbour_loss(distances: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far the neighbourhoods of a batch are from the teacher's.

    Each crop spreads a probability over the others, `softmax(-d / temperature)`; the loss is the mean Kullback-Leibler
    divergence from the teacher's to the student's (probabilistic knowledge transfer: Passalis and Tefas, ECCV 2018).

    Args:
        distances: of the student, `[n, n]`; differentiable.
        teacher: of the teacher, `[n, n]`.
        temperature: in units of distance.

    >>> d = torch.tensor([[0.0, 0.2, 0.9], [0.2, 0.0, 0.7], [0.9, 0.7, 0.0]])
    >>> neighbour_loss(d, d, 0.2).item()
    0.0
    """
    itself = torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    wanted = (-teacher / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    found = (-distances / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    difference = (wanted - found).masked_fill(itself, 0.0)
    return (wanted.exp() * difference).sum(1).mean()
