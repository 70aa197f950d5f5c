"""ms_unireid: UNIReID (Chen, Ye, Jiang, CVPR 2023) in MindSpore.

The names below load on first use, so that what needs no MindSpore (config, annotations, tokenizer, metrics)
imports none.
"""

import importlib
import os
from typing import Any

__version__ = "0.2.0"

# On a CPU a compiled step otherwise spins a core while its kernels run; `runtime.keep_pipeline` undoes it elsewhere.
os.environ.setdefault("MS_DEV_RUNTIME_CONF", "graph_pipeline:false")

_HOMES = {
    "load_config": "ms_unireid.config",
    "register_architecture": "ms_unireid.config",
    "build_model": "ms_unireid.models.unireid",
    "UNIReID": "ms_unireid.models.unireid",
    "open_model": "ms_unireid.checkpoints.checkpoint",
    "load_checkpoint": "ms_unireid.checkpoints.checkpoint",
    "load_weights": "ms_unireid.checkpoints.checkpoint",
    "Encoder": "ms_unireid.evaluation.encoder",
    "TrainOneStepCell": "ms_unireid.training.train_step",
    "Trainer": "ms_unireid.training.trainer",
    "Tokenizer": "ms_unireid.data.tokenizer",
    "PhotoIndex": "ms_unireid.apps.search.engines.embedded",
    "Searcher": "ms_unireid.apps.search.searcher",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ms_unireid' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
