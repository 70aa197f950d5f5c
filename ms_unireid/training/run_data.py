"""The data of a training run: the splits it uses, and the batches of each epoch."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.config import Config
from ms_unireid.data import orbench
from ms_unireid.data.annotations import Pair, training_pairs
from ms_unireid.data.decoded_cache import pixel_loader
from ms_unireid.data.evaluation_sets import EvaluationSet, from_annotations, load_evaluation_set
from ms_unireid.data.pairs import CAPTIONED, Pairs, present, read_captioned
from ms_unireid.data.pipeline import TrainingSource, iterate
from ms_unireid.data.samplers import epoch_batches, shard
from ms_unireid.data.tokenizer import Pieces, Tokenizer
from ms_unireid.data.transforms import TrainTransform, drop_clauses
from ms_unireid.errors import CheckpointError, ConfigError, DataError, shown
from ms_unireid.runtime import ALONE, Processes, smallest_share


class RunData:
    """The checked annotations of every split that a run uses, and this process's part of the batches made from them.

    `splits` holds annotations by name; those in `reported` are evaluated, and `selection` chooses the best checkpoints.
    `load` returns a picture's pixels. `extras` holds rows of the pairs, which a batch has behind its token ids.

    DataError if the data set is wrong or cannot fill a batch; ConfigError if it is not one to train on, or the
    selection split does not exist.
    """

    def __init__(self, config: Config, processes: Processes = ALONE):
        self.config, self.processes = config, processes
        data, reported = config.data, config.eval.splits
        if data.name not in CAPTIONED:
            raise ConfigError(f"data.name={data.name}: is for evaluation only; train on one of {', '.join(CAPTIONED)}")
        read = read_captioned(data)
        self.selection = self._selection(read.splits)
        default = tuple(name for name in ("val", "test") if name in read.splits)
        self.reported = tuple(dict.fromkeys((*(default if reported is None else reported), self.selection)))
        given = self.reported if data.name == orbench.NAME else ()
        self._given = {split: load_evaluation_set(data, split) for split in given}
        wanted = [split for split in dict.fromkeys(("train", *self.reported)) if split not in given]
        self.splits = read.checked_annotations(wanted, data.allow_identity_gaps)
        pairs = training_pairs(self.splits["train"], data.modalities)
        there = present(pairs, config)
        counts = zip(config.objective.tasks, there.sum(axis=0), strict=True)
        told = f"of {len(pairs):,} training pairs, tasks have " + ", ".join(
            f"{task} {count:,}" for task, count in counts
        )
        self._told = (*(read.notes() if isinstance(read, Pairs) else ()), "" if there.all() else told)
        pairs, there = tuple(itertools.compress(pairs, there.any(axis=1))), there[there.any(axis=1)]
        self._pairs = _draw_once(pairs, config.train.seed) if data.draw_pictures == "once" else pairs
        self._person_ids = [pair.person_id for pair in self._pairs]
        persons = np.unique(self._person_ids, return_inverse=True)[1].astype(np.int32)
        self.extras = {} if config.objective.positives == "pair" else {"persons": persons}
        self.extras |= {} if there.all() else {"present": there.astype(np.float32)}
        self._transform = TrainTransform(config.model.image_size, data.augment)
        self.load = pixel_loader(config.runtime, config.model.image_size, self._pictures())
        self._drawn: tuple[int, list] = (0, [])
        if not self.steps(1):
            raise DataError(
                f"the training split of {len(self._pairs)} pairs has no batch for "
                f"{processes.size} processes; start fewer"
            )

    def _selection(self, present: tuple[str, ...]) -> str:
        selection = self.config.eval.selection_split
        if selection == "auto":
            selection = "val" if "val" in present else "test"
        if selection not in present:
            name, there = self.config.data.name, ", ".join(present)
            raise ConfigError(f"eval.selection_split={selection}: {name} has only {there}; choose one of them")
        return selection

    def _pictures(self) -> Iterator[Path]:
        entries = (entry for split in self.splits.values() for entry in split)
        yield from (path for a in entries for path in (a.photo, *itertools.chain(*a.pictures.values())))
        for found in self._given.values():
            yield from (*found.photos, *found.sketches, *(path for one in found.others.values() for path in one.paths))

    @functools.cached_property
    def _whole_captions(self) -> Pieces:
        return self._tokenize([pair.caption for pair in self._pairs])

    def _token_ids(self, epoch: int) -> np.ndarray:
        """Return the token ids of every pair's caption in an epoch, or of a piece of one that is split: (pairs, L)."""
        probability = self.config.data.augment.drop_clauses
        # numpy takes (a, b) for (a, b, 0, 0): the last number tells a stream from the batches' and the pictures'.
        dropping, drawing = (np.random.default_rng((self.config.train.seed, epoch, 0, 0, n)) for n in (1, 2))
        if not probability:
            return self._whole_captions.draw(drawing)
        captions = [drop_clauses(pair.caption, probability, dropping) for pair in self._pairs]
        return self._tokenize(captions).draw(drawing)

    def _tokenize(self, captions: list[str]) -> Pieces:
        return Tokenizer.of(self.config.model, self.config.data.long_captions).pieces(captions)

    def notes(self) -> list[str]:
        """Return what a user should know of the data before training, one line each."""
        return [told for told in (*self._told, self._about_long_captions()) if told]

    def _about_long_captions(self) -> str:
        """Say how many captions are longer than the model reads, and what becomes of them; empty if none is."""
        long, rule = self._whole_captions.long, self.config.data.long_captions
        what = {
            "cut": "they are cut, see data.long_captions",
            "split": "an epoch trains with one piece of each, drawn at random",
            "stretch": "they are cut",
        }
        length = self.config.model.context_length
        told = f"{long.sum():,} of {len(long):,} training captions have more than {length} tokens: {what[rule]}"
        return told if long.any() else ""

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the training pairs: person, photo below the root, and caption of each, in their order."""
        root = str(Path(self.config.data.root))
        pairs = [(pair.person_id, str(pair.photo).removeprefix(root), pair.caption) for pair in self._pairs]
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()

    def check_state(self, file: Path, meta: dict[str, Any]) -> None:
        """Check that the training state that `meta` describes was reached on this data.

        CheckpointError if there is no such batch; ConfigError if the run's epochs are fewer, or its pairs others.
        """
        epoch, done, epochs = meta["epoch"], meta["done"], self.config.train.epochs
        if epoch > epochs:
            raise ConfigError(f"train.epochs={epochs}: the run is in epoch {epoch} already")
        same_batches = meta["config"].get("data", {}).get("batch_size") == self.config.data.batch_size
        batches = len(self.batches(epoch)) if epoch > 0 and same_batches else done
        if epoch < 1 or not 0 <= done <= min(batches, meta["step"]):
            place = f"batch {shown(done)} of {batches}, epoch {shown(epoch)}, step {shown(meta['step'])}"
            raise CheckpointError(f"{file}: is not the state of a run (it is at {place})")
        allowed = "data.root" in self.config.train.allow_changes
        if meta.get("pairs", self.digest) != self.digest and not allowed:
            raise ConfigError(
                f"{file}: is of a run on other training pairs than those in {self.config.data.root}; set data.root to "
                "the folder of its data set, or allow the change with train.allow_changes=[data.root]"
            )

    def batches(self, epoch: int) -> list[list[int]]:
        """Draw the batches of an epoch (1-based), those of all processes."""
        if self._drawn[0] != epoch:
            drawn = epoch_batches(self._person_ids, self.config.data, self.config.train.seed, epoch)
            self._drawn = (epoch, drawn)
        return self._drawn[1]

    def steps(self, epoch: int) -> int:
        """Return the number of this process's batches of an epoch (1-based); samplers may draw another in each."""
        return len(self._shard(epoch))

    def _shard(self, epoch: int) -> list[np.ndarray]:
        return shard(self.batches(epoch), self.processes, smallest_share(self.config.train))

    def epoch(self, epoch: int, done: int = 0) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield this process's batches of an epoch, without the first `done`: photos, other pictures, token ids.

        Persons (B,) int32, numbered from 0, come next if `objective.positives` needs them, and last, if pairs lack what
        tasks ask with, 1 or 0 for each of `objective.tasks`, (B, tasks) float32.
        DataError if a picture cannot be read.
        """
        return iterate(self.source(epoch, done), self.config.runtime)

    def source(self, epoch: int, done: int = 0) -> TrainingSource:
        """Return the batches of `epoch` by index, each made when it is asked for."""
        return TrainingSource(
            self._pairs,
            self._shard(epoch)[done:],
            self._transform,
            self._token_ids(epoch),
            self.config.train.seed,
            epoch,
            self.processes,
            self.load,
            self.extras,
        )

    def describe_batch(self, epoch: int, number: int) -> list[dict[str, str]]:
        """Name the pairs of a batch (1-based) of an epoch, those of all processes."""
        pairs = [self._pairs[i] for i in self.batches(epoch)[number - 1]]
        names = self.config.data.modalities
        return [
            {"photo": str(p.photo)}
            | {name: ", ".join(map(str, paths)) for name, paths in zip(names, p.pictures, strict=True)}
            | {"caption": p.caption}
            for p in pairs
        ]

    def evaluation_set(self, split: str) -> EvaluationSet:
        """Return the evaluation set of a split."""
        if split in self._given:
            return self._given[split]
        return from_annotations(self.splits[split], self.config.data.name, self.config.data.modalities)


def _draw_once(pairs: Sequence[Pair], seed: int) -> tuple[Pair, ...]:
    """Draw one of the pictures of each modality of each pair."""
    rng = np.random.default_rng((seed, 0, 0, 0, 3))  # not the stream of any epoch
    return tuple(
        dataclasses.replace(pair, pictures=tuple(of and (of[rng.integers(len(of))],) for of in pair.pictures))
        for pair in pairs
    )
