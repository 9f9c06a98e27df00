"""What distances are given: read by name, checked against each other, cut into slices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from glimpse.embedding import Embedding
from glimpse.errors import EmbeddingError
from glimpse.matching.distance import Distance

REMEDY = "match with the distance of the method that made it"


def in_float32(x: Tensor) -> AbstractContextManager[None]:
    """No autocast: distances are small differences of large sums."""
    return torch.autocast(x.device.type, enabled=False)


def slices(n: int, step: int) -> Iterator[slice]:
    """0 to n in steps.

    >>> list(slices(5, 3))
    [slice(0, 3, None), slice(3, 5, None)]
    """
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def called(embedding: Embedding) -> str:
    """What to call an embedding in messages."""
    return f"embedding (made by {embedding.made_by})" if embedding.made_by else "embedding"


def only(embedding: Embedding, names: tuple[str, ...]) -> Embedding:
    """The tensors of those names."""
    if embedding.names == names:
        return embedding
    return Embedding({name: embedding[name] for name in names}, embedding.made_by)


def tensor_of(embedding: Embedding, name: str, ndim: int, shape: str) -> Tensor:
    """The tensor `name`, of so many axes.

    Raises:
        EmbeddingError: it is not there, of another `shape`, or not finite.
    """
    tensor = embedding[name]
    if tensor.ndim != ndim or 0 in tensor.shape[1:]:
        raise EmbeddingError(called(embedding), f"'{name}' is {list(tensor.shape)} instead of {shape}", REMEDY)
    if tensor.is_floating_point() and not _finite(tensor):
        bad = (~tensor.isfinite()).flatten(1).any(1).nonzero()
        if len(bad):
            raise EmbeddingError(
                called(embedding),
                f"'{name}' is not finite in row {int(bad[0])} ({len(bad)} of {len(tensor)} rows)",
                "check the weights and the crops that it was made with",
            )
    return tensor


_EXPONENT = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80}


def _finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite.

    A finite sum has finite terms only, and adding up takes a tenth of the time of `isfinite`. Of half precision, it is
    asked of the bits: without its sign, what is not finite is the largest as a whole number. Checks took most of the
    time of a search before.
    """
    if tensor.dtype not in _EXPONENT or not tensor.numel():
        return math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())
    bits = tensor.view(torch.int16) & 0x7FFF
    return int(bits.max()) < _EXPONENT[tensor.dtype]


def weights_of(embedding: Embedding, name: str, parts: str) -> Tensor:
    """The weights `name` `[n, k]` of `parts` `[n, k, d]`.

    Raises:
        EmbeddingError: they are not there, not one for each part, or not in [0, 1].
    """
    weights = tensor_of(embedding, name, 2, "[n, k]")
    if weights.shape[1] != embedding[parts].shape[1]:
        raise EmbeddingError(
            called(embedding),
            f"'{name}' has {weights.shape[1]} columns, but '{parts}' has {embedding[parts].shape[1]} parts",
            "give one weight per part",
        )
    if bool(((weights < 0) | (weights > 1)).any()):
        raise EmbeddingError(called(embedding), f"'{name}' has values outside [0, 1]", "clip the weights")
    return weights


def fitting(distance: Distance, query: Embedding, gallery: Embedding) -> tuple[Embedding, Embedding]:
    """Both embeddings prepared.

    Raises:
        EmbeddingError: they cannot be compared.
    """
    if query.made_by and gallery.made_by and query.made_by != gallery.made_by:
        raise EmbeddingError(
            "embedding",
            f"query and gallery were made by different weights ('{query.made_by}' and '{gallery.made_by}')",
            "embed both with the same weights",
        )
    if query.device != gallery.device:
        raise EmbeddingError(
            "embedding", f"query is on {query.device} and gallery on {gallery.device}", "move one of them with `to`"
        )
    query, gallery = distance.prepare(query), distance.prepare(gallery)
    for name in query.names:
        if query[name].shape[1:] != gallery[name].shape[1:]:
            raise EmbeddingError(
                called(gallery),
                f"'{name}' has rows of {list(gallery[name].shape[1:])}, those of the query have "
                f"{list(query[name].shape[1:])}",
                "embed both with the same weights",
            )
    return query, gallery


def check_index(query: Embedding, gallery: Embedding, index: Tensor) -> Tensor:
    """Rows of the gallery for each query `[q, n]`, as int64 where the gallery is.

    Raises:
        EmbeddingError: they are no such rows.
    """
    if index.ndim != 2 or len(index) != len(query) or index.is_floating_point():
        raise EmbeddingError(
            "index", f"is {index.dtype} {list(index.shape)} for {len(query)} queries", "give whole numbers [q, n]"
        )
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < len(gallery)):
        raise EmbeddingError(
            "index",
            f"has rows {int(index.min())} to {int(index.max())}, but the gallery has {len(gallery)}",
            "use row numbers of this gallery",
        )
    return index.to(device=gallery.device, dtype=torch.int64)


def one_row(query: Embedding, gallery: Embedding) -> None:
    """Refuse more, or less, than a pair.

    Raises:
        EmbeddingError: one of the two has not exactly one row.
    """
    if len(query) != 1 or len(gallery) != 1:
        raise EmbeddingError(
            "embedding", f"{len(query)} queries and {len(gallery)} gallery crops", "explain one pair at a time"
        )
