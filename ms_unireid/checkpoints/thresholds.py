"""Thresholds of the score, in a file beside a checkpoint: a person none of whose photos is above is probably not there.

Not in the checkpoint, whose SHA-256 indexes know. Whoever moves or copies the checkpoint takes both files.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ms_unireid.config import Config, to_dict
from ms_unireid.errors import escaped
from ms_unireid.files import read_json, write_json
from ms_unireid.installation import job_command
from ms_unireid.modalities import canonical

CALIBRATE = f"make them again with {job_command('evaluate')} --open-set --calibrate"
FAR_FROM = 10  # times as many photos as it was calibrated with, from which on a threshold is a guess
_TASK = {"threshold": float, "per_doubling": float, "queries": int, "photos": int}
_FORM = {
    "checkpoint_sha256": str, "model": {str: object}, "false_alarms": float, "dataset": str, "split": str,
    "tasks": {str: _TASK},
}  # fmt: skip


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of some tasks for one rate of false alarms."""

    checkpoint_sha256: str
    model: Mapping[str, Any]  # `model_facts`
    false_alarms: float  # share of the queries for absent persons that a photo is above the threshold for, 0-1
    dataset: str
    split: str
    # By task: the cosine that a photo must exceed, how much it rises with each doubling of the number of photos, and
    # the numbers of queries and photos that this was found with.
    tasks: Mapping[str, Mapping[str, Any]]

    def threshold(self, task: str, photos: int) -> float | None:
        """Return the threshold of a task for a search among some number of photos; None if the task has none.

        The best photo of an absent person is the largest of many scores, which rises with their number's logarithm.
        """
        found = self.tasks.get(task)
        if not found or not photos:
            return None
        return found["threshold"] + found["per_doubling"] * math.log2(photos / max(found["photos"], 1))

    def fits(self, about: Mapping[str, Any]) -> bool:
        """Whether they are for the features that an index, with this `PhotoStore.about`, has."""
        return (self.checkpoint_sha256, self.model) == (about["checkpoint"]["sha256"], about["model"])

    def misfit(self, about: Mapping[str, Any]) -> str:
        """Say what is wrong where they do not fit."""
        rules = [model.get("long_captions", "cut") for model in (self.model, about["model"])]
        found = f" (data.long_captions={rules[0]}, the index has {rules[1]})" if rules[0] != rules[1] else ""
        return f"the thresholds beside the checkpoint are of another one or of other settings{found}; {CALIBRATE}"

    def describe(self, task: str, photos: int) -> str:
        """Say what a threshold means for a search among some number of photos."""
        known, where = self.tasks[task]["photos"], escaped(f"{self.split} of {self.dataset}")
        guess = f"; a guess for {photos:,} photos" if photos > FAR_FROM * known else ""
        return (
            f'a score of at most {self.threshold(task, photos):.4f} means "probably not here" ({task} among {photos:,} '
            f"photos; {100 * self.false_alarms:g}% false alarms, calibrated on {where}, {known:,} photos{guess})"
        )


def model_facts(config: Config) -> dict[str, Any]:
    """Return what features depend on besides the checkpoint's file, as an index keeps it."""
    values, long_captions = to_dict(config.model), config.data.long_captions
    facts = {key: values[key] for key in ("architecture", "image_size", "stride", "context_length", "activation")}
    # The rule of earlier indexes, which do not name one.
    return facts if long_captions == "cut" else {**facts, "long_captions": long_captions}


def thresholds_file(checkpoint: Path) -> Path:
    """Return where the thresholds of a checkpoint are: a file, or a folder, of weights has them beside it."""
    path = checkpoint.resolve()  # as an index names it
    return path.with_name(f"{path.name}.thresholds.json")


def read_thresholds(checkpoint: Path) -> Thresholds | None:
    """Read the thresholds beside a checkpoint; None if there are none, UserError if their file is damaged."""
    file = thresholds_file(checkpoint)
    if not file.exists():
        return None
    kept = read_json(file, _FORM, f"{CALIBRATE}, or remove it")
    # A search knows the usual names; tasks whose queries are given, and earlier files, may have only others.
    kept["tasks"] = {canonical(task): found for task, found in kept["tasks"].items()} | kept["tasks"]
    return Thresholds(**{key: kept[key] for key in _FORM})


def write_thresholds(checkpoint: Path, thresholds: Thresholds) -> Path:
    """Write thresholds beside a checkpoint and return their file; UserError if it cannot be written."""
    file = thresholds_file(checkpoint)
    write_json(file, asdict(thresholds))
    return file
