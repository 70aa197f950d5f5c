"""Numbers of identities, photos, sketches and captions in the published data sets.

The Tri data sets: totals of Table 1 of the paper, splits of the caption files; the two agree. PKU-Sketch and
Market-Sketch-1K: counts of the published files. For styles a and c of PKU-Sketch and style F of Market-Sketch-1K these
differ from the papers, but agree with PKU-Sketch's ReadMe.txt and the README of Market-Sketch-1K's repository.
ORBench: totals of its paper.
"""

from collections.abc import Mapping
from types import MappingProxyType

ALL = "all"

# data set -> split or ALL -> what -> number
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "cuhk_pedes": {
            "train": {"identities": 11003, "photos": 34054, "captions": 68126},
            "val": {"identities": 1000, "photos": 3078, "captions": 6158},
            "test": {"identities": 1000, "photos": 3074, "captions": 6156},
            ALL: {"identities": 13003, "photos": 40206, "captions": 80440, "sketches": 40206},
        },
        "icfg_pedes": {
            "train": {"identities": 3102, "photos": 34674, "captions": 34674},
            "test": {"identities": 1000, "photos": 19848, "captions": 19848},
            ALL: {"identities": 4102, "photos": 54522, "captions": 54522, "sketches": 54522},
        },
        "rstp_reid": {
            "train": {"identities": 3701, "photos": 18505, "captions": 37010},
            "val": {"identities": 200, "photos": 1000, "captions": 2000},
            "test": {"identities": 200, "photos": 1000, "captions": 2000},
            ALL: {"identities": 4101, "photos": 20505, "captions": 41010, "sketches": 20505},
        },
        "orbench": {
            "train": {"identities": 600},
            "test": {"identities": 400},
            ALL: {
                "identities": 1000,
                "photos": 45113,
                "captions": 45113,
                "infrared": 26071,
                "pencil": 18000,
                "sketches": 18000,
            },
        },
        "pku_sketch": {
            ALL: {
                "identities": 200,
                "photos": 400,
                "sketches": 200,
                "style a": 46,
                "style b": 20,
                "style c": 79,
                "style d": 33,
                "style e": 22,
            },
        },
        "market_sketch": {
            "train": {"identities": 498, "style F": 497},
            "test": {"identities": 498, "style F": 493},
            ALL: {"identities": 996, "sketches": 4763},
        },
    }
)
