"""Closed outlines of simple shapes: arrays (N, 2) of x to the right and y downward."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def rounded(points, passes: int = 2) -> np.ndarray:
    """Round a closed outline by cutting its corners (Chaikin)."""
    points = np.asarray(points, float)
    for _ in range(passes):
        following = np.roll(points, -1, axis=0)
        points = np.stack((0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following), 1).reshape(-1, 2)
    return points


@lru_cache
def arc(start: float, end: float, count: int) -> np.ndarray:
    """Return points of the unit circle between two angles in degrees: (count, 2)."""
    angles = np.radians(np.linspace(start, end, count))
    return np.stack((np.cos(angles), np.sin(angles)), 1)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> np.ndarray:
    """Outline an ellipse, or its arc between two angles in degrees (90 points down)."""
    return arc(start, end, 20) * (rx, ry) + (x, y)


def box(x: float, y: float, half_width: float, half_height: float, spread: float = 0.0) -> np.ndarray:
    """Outline a box around a point, with rounded corners; ``spread`` widens the bottom."""
    low = half_width + spread
    corners = [(-half_width, -half_height), (half_width, -half_height), (low, half_height), (-low, half_height)]
    return rounded(np.asarray(corners) + (x, y), 1)


def limb(start, end, start_width: float, end_width: float) -> np.ndarray:
    """Outline a tapered limb between two points; widths are half widths."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = (end - start) / max(np.linalg.norm(end - start), 1e-6)
    across = np.array((-along[1], along[0]))
    corners = (
        *(start - across * start_width, end - across * end_width),
        *(end + across * end_width, start + across * start_width),
    )
    return rounded(corners, 1)


def bent(joints, half_widths, passes: int = 1) -> np.ndarray:
    """Outline a limb through its joints."""
    joints, half_widths = np.asarray(joints, float), np.asarray(half_widths, float)[:, None]
    along = np.gradient(joints, axis=0)
    across = np.stack((along[:, 1], -along[:, 0]), 1) / np.maximum(np.linalg.norm(along, axis=1), 1e-6)[:, None]
    sides = joints + across * half_widths, joints - across * half_widths
    return rounded(np.concatenate((sides[0], sides[1][::-1])), passes)


def symmetric(right, passes: int = 2) -> np.ndarray:
    """Outline a shape from its right half, listed from top to bottom."""
    right = np.asarray(right, float)
    return rounded(np.concatenate((right, right[::-1] * (-1, 1))), passes)
