"""A checkpoint on any data set: its model built once, each data set encoded and evaluated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_unireid.config import Config, DataConfig, config_from_dict, load_config, to_dict
from ms_unireid.data.evaluation_sets import EvaluationSet, load_evaluation_set
from ms_unireid.errors import ConfigError
from ms_unireid.evaluation.evaluator import evaluate_features
from ms_unireid.evaluation.features import FeatureExtractor
from ms_unireid.evaluation.protocols import Results
from ms_unireid.evaluation.questions import SplitFeatures
from ms_unireid.models.unireid import build_model
from ms_unireid.runtime import prepare
from ms_unireid.training.checkpoint import fill, read_checkpoint


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint on one split of a data set.

    Attributes:
        dataset: Its name.
        split: The split.
        data: What was encoded.
        feats: Its features.
        results: Its metrics.
    """

    dataset: str
    split: str
    data: EvaluationSet
    feats: SplitFeatures
    results: Results


class CheckpointEvaluator:
    """Evaluates one checkpoint.

    Args:
        path: A checkpoint of ours, or any other file that holds a whole model.
        files: YAML files; None takes the config that is saved in the checkpoint.
        overrides: `section.key=value` strings.
        progress: Called with (done, total) batches of what is being encoded.

    Attributes:
        config: The config in effect.

    Raises:
        UserError: If checkpoint, config, packages or device are wrong.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[Path] | None = None,
        overrides: Sequence[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ):
        self.path = path
        self.checkpoint = read_checkpoint(path)
        saved = self.checkpoint.meta["config"]
        self.config = load_config(files, overrides) if files else config_from_dict(saved, str(path), overrides)
        self.progress = progress
        self.extractor: FeatureExtractor | None = None

    @property
    def trained_on(self) -> str:
        """The data set that the checkpoint says it was trained on."""
        return self.checkpoint.meta["config"].get("data", {}).get("name", "")

    def evaluate(self, split: str, protocol: str = "paper", data: DataConfig | None = None) -> Evaluated:
        """Encode and evaluate a split.

        Args:
            split: train, val or test.
            protocol: See `evaluate_protocol`.
            data: The data set; None takes the config's.

        Raises:
            UserError: If the data set is wrong, or the checkpoint does not fit the config's model.
        """
        data = data or self.config.data
        loaded = load_evaluation_set(data, split)  # before the model is built: mistakes show at once
        feats = self._extractor().encode(loaded)
        return Evaluated(data.name, split, loaded, feats, evaluate_features(feats, protocol, self.config.eval))

    def _extractor(self) -> FeatureExtractor:
        if self.extractor is None:
            prepare(self.config.runtime)
            model = build_model(self.config.model)
            fill(model.get_parameters(), self.checkpoint)
            self.extractor = FeatureExtractor(model, self.config, self.progress)
        return self.extractor


def parse_targets(texts: Sequence[str], config: Config) -> list[DataConfig]:
    """Turn NAME=FOLDER texts into data sections, in all else like the config's.

    Raises:
        ConfigError: If a text is of another form, or names no data set.
    """
    found = []
    for text in texts:
        name, _, folder = text.partition("=")
        if not folder:
            raise ConfigError(f"target {text}: expected NAME=FOLDER, for example icfg_pedes=data")
        overrides = [f"data.name={name}", f"data.root={folder}"]
        found.append(config_from_dict(to_dict(config), f"target {text}", overrides).data)
    return found
