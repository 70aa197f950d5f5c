"""Evaluate checkpoints on data sets: each model is built once, each data set is read once."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_unireid.checkpoints.checkpoint import read_checkpoint
from ms_unireid.checkpoints.formats.any_file import checkpoint_digest
from ms_unireid.checkpoints.recognition import open_source
from ms_unireid.checkpoints.thresholds import Thresholds, model_facts
from ms_unireid.config import Config, DataConfig
from ms_unireid.data.evaluation_sets import EvaluationSet, load_evaluation_set, parse_targets
from ms_unireid.evaluation.evaluator import evaluate_features, to_json
from ms_unireid.evaluation.open_set import RATES, check_open_set, evaluate_open_set, thresholds_of
from ms_unireid.evaluation.protocols import Results, check_protocol
from ms_unireid.evaluation.queries import SplitFeatures

if TYPE_CHECKING:
    from ms_unireid.evaluation.encoder import Encoder


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint on one split of a data set."""

    checkpoint: Path
    trained_on: str  # name of the data set; `unknown` if ms_unireid did not train it
    dataset: str  # name of the data set that it was evaluated on
    folder: str  # as it was given
    split: str
    data: EvaluationSet
    feats: SplitFeatures  # of `data`
    config: Config
    results: Results
    open_set: list[dict[str, Any]]  # rows of `evaluate_open_set`; none if no rates were given

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of `to_json`, each with the columns `evaluator.LEADING`."""
        return [self.about | row for row in to_json(self.results)]

    @property
    def about(self) -> dict[str, str]:
        """The columns `evaluator.LEADING`."""
        about = {"checkpoint": str(self.checkpoint), "trained_on": self.trained_on}
        return about | {"dataset": self.dataset, "folder": self.folder}

    def thresholds(self, rate: float) -> Thresholds:
        """Return the thresholds of all tasks, evaluated at one false-alarm rate."""
        made_by = checkpoint_digest(self.checkpoint), model_facts(self.config)
        return Thresholds(*made_by, rate, self.dataset, self.split, thresholds_of(self.open_set))


class CheckpointEvaluator:
    """Evaluates one checkpoint; arguments and errors as in `open_model`.

    `progress` is called with (done, total) batches of a split. `exported` opens the model for another encoder than
    MindSpore, given checkpoint, config and the photos that it will encode. `config` is the config in effect.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[Path] | None = None,
        overrides: Sequence[str] = (),
        progress: Callable[[int, int], None] | None = None,
        exported: Callable[[Path, Config, Sequence[Path]], Any] | None = None,
    ):
        self.path, self._exported, self._photos = path, exported, ()
        self.checkpoint = read_checkpoint(path)
        self.config = self.checkpoint.config(overrides, files)
        self.progress = progress

    @property
    def trained_on(self) -> str:
        """The data set that the checkpoint was trained on; `unknown` if ms_unireid did not train it."""
        meta = self.checkpoint.meta
        # A file that training did not write has a config of defaults.
        return meta["config"].get("data", {}).get("name", "unknown") if "epoch" in meta else "unknown"

    def evaluate(
        self,
        split: str,
        protocol: str = "paper",
        data: DataConfig | None = None,
        reranked: bool = False,
        load: Callable[[DataConfig, str], EvaluationSet] = load_evaluation_set,
        rates: Sequence[float] | None = None,
    ) -> Evaluated:
        """Encode and evaluate a split of a data set (None: the config's), which `load` reads.

        Protocol and re-ranking are as in `evaluate_features`. A wrong data set, protocol or device, or a checkpoint
        that does not fit the config's model, raises a UserError. With `rates`, `evaluate_open_set` is done too, at
        its own rates if there are none; the queries must be enough for those given.
        """
        data = data or self.config.data
        loaded = load(data, split)  # before the model is built, so that mistakes show at once
        check_protocol(protocol, loaded)
        if rates is not None:
            check_open_set(loaded, rates)
        self._photos = loaded.photos
        size = self.config.eval.batch_size
        captions = self.encoder.tokenizer.pieces(list(set(loaded.captions))).token_ids
        rows = (captions, loaded.photos, loaded.sketches, *(one.paths for one in loaded.others.values()))
        self._done, self._total = 0, sum(-(-len(one) // size) for one in rows)
        feats = self.encoder.encode(loaded)
        results = evaluate_features(feats, protocol, self.config.eval, reranked)
        open_set = [] if rates is None else evaluate_open_set(feats, rates or RATES, self.config.eval.tasks)
        about = self.path, self.trained_on, data.name, data.root, split
        return Evaluated(*about, loaded, feats, self.config, results, open_set)

    @functools.cached_property
    def encoder(self) -> "Encoder":
        """The encoder; the model is built at first use."""
        if self._exported and self.config.runtime.encoder != "mindspore":
            model = self._exported(self.path, self.config, self._photos)
        else:
            model = self.checkpoint.build(self.config)
        from ms_unireid.evaluation.encoder import Encoder

        return Encoder(model, self.config, self._advance if self.progress else None)

    def _advance(self, *_: int) -> None:
        """Count a batch of captions, photos or sketches."""
        self._done += 1
        self.progress(self._done, self._total)


def evaluate_checkpoints(
    checkpoints: Sequence[Path],
    targets: Sequence[str] = (),
    split: str = "test",
    protocol: str = "paper",
    reranked: bool = False,
    files: Sequence[Path] | None = None,
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    rates: Sequence[float] | None = None,
    exported: Callable[[Path, Config, Sequence[Path]], Any] | None = None,
) -> Iterator[Evaluated]:
    """Evaluate each checkpoint on each data set; arguments are those of `CheckpointEvaluator` and its `evaluate`.

    Targets are `NAME=FOLDER` strings; without any, each checkpoint is evaluated on the data set of its config. Whatever
    is wrong raises a UserError; before anything is encoded if a checkpoint cannot be read, or a data set of the first
    one is wrong.
    """
    for path in checkpoints[1:]:
        open_source(path)
    load = functools.cache(load_evaluation_set)  # reads each data set once, for all checkpoints
    for number, path in enumerate(checkpoints):
        evaluator = CheckpointEvaluator(path, files, overrides, progress, exported)
        data = parse_targets(targets, evaluator.config) or [evaluator.config.data]
        if number == 0:
            for one in data[1:]:
                check_protocol(protocol, load(one, split))
        for one in data:
            yield evaluator.evaluate(split, protocol, one, reranked, load, rates)
