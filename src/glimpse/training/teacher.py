"""A teacher: what a trained model thinks of the clear crops, to be kept when they are covered."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from glimpse.embedding import Embedding
from glimpse.errors import ConfigError
from glimpse.matching import Distance


class Teacher:
    """What a trained model says of the clear training crops.

    Args:
        distance: of the teacher's method.
        embedding: of the clear training crops, one row each.
    """

    def __init__(self, distance: Distance, embedding: Embedding) -> None:
        self.distance = distance
        self.embedding = distance.prepare(embedding)
        whole = embedding["globals"] if "globals" in embedding.names else None
        self._vectors = F.normalize(whole.float(), dim=1) if whole is not None and whole.ndim == 2 else None

    def matrix(self, rows: Tensor) -> Tensor:
        """Distances `[n, n]` between the clear crops `rows` `[n]`."""
        crops = self.embedding[rows.cpu()]
        return self.distance.matrix(crops, crops).to(rows.device)

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return self.check_vectors().shape[1]

    def vectors(self, rows: Tensor) -> Tensor:
        """Vectors of unit length `[n, d]` of the clear crops `rows` `[n]`."""
        return self.check_vectors()[rows.cpu()].to(rows.device)

    def check_vectors(self) -> Tensor:
        """The vectors of all crops, of unit length `[rows, d]`.

        Raises:
            ConfigError: the teacher has no one global vector per crop.
        """
        if self._vectors is None:
            raise ConfigError(
                "field 'teacher'",
                "the teacher has no one vector per crop",
                "set teacher_vector to 0 in all stages, or choose a teacher with a global vector, such as a baseline",
            )
        return self._vectors


def distance_loss(distances: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two distance matrices `[n, n]`, their diagonals left out.

    Relational knowledge distillation (Park et al., CVPR 2019), with distances as they are: both are cosine distances.

    >>> d = torch.tensor([[0.0, 0.2], [0.2, 0.0]])
    >>> round(distance_loss(d, d + 0.1).item(), 4)
    0.01
    """
    itself = torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    return (distances - teacher)[~itself].square().mean()


def vector_loss(vectors: Tensor, teacher: Tensor) -> Tensor:
    """Mean over crops of 1 - cosine between `[n, d]` and `[n, d]`.

    >>> vector_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item()
    1.0
    """
    return (1 - F.cosine_similarity(vectors.float(), teacher, dim=1)).mean()
