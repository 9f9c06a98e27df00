"""Distances between crops, made of kernels: tensors in, tensors out; no files, no datasets, no paper's name."""

from glimpse.matching.cascade import Cascade, smallest
from glimpse.matching.distance import Distance, Explanation, PartMatch
from glimpse.matching.kernels import (
    EPS,
    WORKSPACE_BYTES,
    Bounded,
    GlobalDistance,
    MixedDistance,
    PairGlobalDistance,
    PartDistance,
    cosine_distance,
    pair_global_distance,
    pair_global_vectors,
    part_distance,
    unit_vectors,
)
from glimpse.matching.ranking import Ranking, distance_rows, top_k
from glimpse.matching.reconstruction import ReconstructionDistance, reconstruction_distance
from glimpse.matching.reranking import KReciprocal, expand, k_reciprocal, rerank_candidates

__all__ = [
    "EPS",
    "WORKSPACE_BYTES",
    "Bounded",
    "Cascade",
    "Distance",
    "Explanation",
    "GlobalDistance",
    "KReciprocal",
    "MixedDistance",
    "PairGlobalDistance",
    "PartDistance",
    "PartMatch",
    "Ranking",
    "ReconstructionDistance",
    "cosine_distance",
    "distance_rows",
    "expand",
    "k_reciprocal",
    "pair_global_distance",
    "pair_global_vectors",
    "part_distance",
    "reconstruction_distance",
    "rerank_candidates",
    "smallest",
    "top_k",
    "unit_vectors",
]
