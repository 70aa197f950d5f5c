"""Re-ranking by k-reciprocal neighbours (Zhong et al., CVPR 2017) with sets and dense loops (numpy only)."""

import numpy as np


def rerank(query_feats, gallery_feats, k1: int, k2: int, weight: float) -> np.ndarray:
    """Return the re-ranked distances, (Q, G) float64.

    Args:
        query_feats: Features, (Q, D).
        gallery_feats: Features, (G, D).
        k1: Neighbours of a sample, besides itself.
        k2: Samples averaged over, the sample itself among them.
        weight: Share of the original distance.
    """
    distance = scaled_distances(np.concatenate([query_feats, gallery_feats]).astype(np.float64))
    order = [nearest_first(p, distance[p]) for p in range(len(distance))]
    encoded = np.stack([encode(p, distance[p], order, k1) for p in range(len(distance))])
    expanded = np.stack([encoded[order[p][:k2]].mean(axis=0) for p in range(len(distance))])
    found = np.empty((len(query_feats), len(gallery_feats)))
    for p, g in np.ndindex(found.shape):
        other = len(query_feats) + g
        similar = np.minimum(expanded[p], expanded[other]).sum() / np.maximum(expanded[p], expanded[other]).sum()
        found[p, g] = (1 - weight) * (1 - similar) + weight * distance[p, other]
    return found


def scaled_distances(feats) -> np.ndarray:
    """Return squared Euclidean distances of the normalised samples, each row over its largest, (N, N)."""
    unit = feats / np.linalg.norm(feats, axis=1, keepdims=True)
    distance = 2 - 2 * unit @ unit.T
    return distance / distance.max(axis=1, keepdims=True)


def nearest_first(p: int, distances) -> list[int]:
    """Return the sample itself, then the others by distance; ties stay in order."""
    return [p, *sorted((g for g in range(len(distances)) if g != p), key=lambda g: (distances[g], g))]


def reciprocal(p: int, order: list[list[int]], k: int) -> set[int]:
    """Return R(p, k): those among the k nearest of p that have p among their k nearest, p included."""
    return {g for g in order[p][: k + 1] if p in order[g][: k + 1]}


def encode(p: int, distances, order: list[list[int]], k1: int) -> np.ndarray:
    """Return the weights of p's extended reciprocal neighbours, which add up to one, (N,)."""
    own = reciprocal(p, order, k1)
    extended = set(own)
    for q in own:
        theirs = reciprocal(q, order, round(k1 / 2))
        if len(own & theirs) > len(theirs) * 2 / 3:
            extended |= theirs
    weights = np.zeros(len(distances))
    for g in extended:
        weights[g] = np.exp(-distances[g])
    return weights / weights.sum()
