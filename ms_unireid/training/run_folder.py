"""The files of a run: resolved config, environment, log, results and checkpoints."""

import contextlib
import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ms_unireid.config import Config, config_from_dict, load_config, to_dict, to_yaml
from ms_unireid.errors import CheckpointError, ConfigError, UserError
from ms_unireid.evaluation.evaluator import ROW
from ms_unireid.files import check_form, locked, open_regular, read_json, write_json, write_text
from ms_unireid.modalities import MEAN

# What a run writes, and what a folder of several runs holds besides them.
OF_A_RUN = ("config.yaml", "last.ckpt", "previous.ckpt", "best_*.ckpt", "results.json", "log.jsonl", "bad_batch.json")
OF_RUNS = ("seed_*", "seeds.json", "table_*.json")

_EVALUATION = {"epoch": int, "splits": {str: [{**ROW, str: float}]}}
_RESULTS = {"best": {str: {"R1": float, **_EVALUATION}}, "evaluations": [_EVALUATION], str: str}
_LOGGED_ROW = {"task": str, "protocol": str, "R1": (float, None)}
_LOGGED = {
    "step": {"kind": str, "step": int, str: (float, None)},
    "evaluation": {"step": int, "epoch": int, "splits": {str: [_LOGGED_ROW]}},
    "config": {"step": int, "changes": {str: [object]}},
}


def read_log(log_file: Path) -> list[dict[str, Any]]:
    """Read a run's log.jsonl; a missing file is an empty log, numbers that are not finite become None.

    A last line that a kill cut off is left out; another damaged line, or a file that cannot be read, is a UserError.
    """
    if not log_file.exists():
        return []
    try:
        with open_regular(log_file) as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        raise UserError(f"{log_file}: cannot be read ({error.strerror or error}); check its permissions") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(_log_entry(line))
        except (ValueError, RecursionError) as error:
            if number < len(lines):  # what follows the last line end was cut off
                raise UserError(
                    f"{log_file}: line {number} is damaged ({error}); take this line out, or delete the file to go on "
                    "without what was logged"
                ) from error
    return entries


def _log_entry(line: bytes) -> dict[str, Any]:
    entry = json.loads(line, parse_constant=lambda _: None)
    check_form(entry, {"kind": set(_LOGGED)}, "it")
    check_form(entry, _LOGGED[entry["kind"]], "it")
    return entry


def open_folder(config: Config) -> tuple["RunFolder", bool]:
    """Return the run folder and whether its run is resumed; ConfigError if a new run cannot begin there."""
    train = config.train
    if train.resume not in (None, "auto"):
        return RunFolder(train.resume), True
    folder = RunFolder(train.output)
    resumed = train.resume == "auto" and folder.holds_run()
    if not resumed:
        folder.check_unused()
    return folder, resumed


def selection_scores(rows: list[dict[str, Any]], text_protocol: str) -> dict[str, float | None]:
    """Return the R1 in percent that chooses the best checkpoint of each task, and the `average` of all.

    Where there are means over tasks, they take the place of the tasks, of which there are many.
    A task without a query that has a match has None and no part in the average.
    `rows` come from `evaluator.to_json` on the selection split, `text_protocol` from `eval.selection_text_protocol`.
    """
    found = {(row["task"], row["protocol"]): row["R1"] for row in rows}
    tasks = dict.fromkeys(task for task, _ in found)
    means = [task for task in tasks if task.startswith(MEAN)]
    scores = {}
    for task in means or tasks:
        usual = text_protocol if task == "text" else "exclude_source_photo"
        scores[task] = found[task, "orbench" if (task, "orbench") in found else usual]
    known = [score for score in scores.values() if score is not None] or [0.0]
    return {**scores, "average": sum(known) / len(known)}


def improved(scores: dict[str, float | None], best: dict[str, dict[str, Any]]) -> list[str]:
    """List the tasks, `average` included, with a new best score; in a tie the earlier epoch stays the best."""
    known = {task: score for task, score in scores.items() if score is not None}
    return [task for task, score in known.items() if task not in best or score > best[task]["R1"]]


def resumable_keys() -> set[str]:
    """List the config keys that may differ when a run is resumed."""
    sections = {section.name: dataclasses.fields(section.default_factory) for section in dataclasses.fields(Config)}
    return {f"{name}.{key.name}" for name, keys in sections.items() for key in keys if key.metadata.get("resumable")}


def changed_keys(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """Return the keys that change a run's numbers and differ between two configs, with both values."""
    old, new = (_flatten(to_dict(config)) for config in (before, now))
    return {key: (old[key], new[key]) for key in sorted(new.keys() - resumable_keys()) if old[key] != new[key]}


def _refuse(problem: str, changed: dict[str, tuple[Any, Any]], config: Config) -> None:
    """Raise ConfigError if there are changes that `train.allow_changes` does not permit."""
    refused = [key for key in changed if key not in config.train.allow_changes]
    if refused:
        listed = "; ".join(f"{key}: {changed[key][0]} -> {changed[key][1]}" for key in refused)
        raise ConfigError(
            f"{problem} ({listed}); undo these changes, allow them with train.allow_changes=[{','.join(changed)}], or "
            "start a new run from its checkpoint with model.pretrained"
        )


class RunFolder:
    """The files of one run; each is written whole or not at all. Methods raise UserError if they cannot write."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.last = self.root / "last.ckpt"  # the newest training state
        self.previous = self.root / "previous.ckpt"  # the state before it
        self.next = self.root / ".next.partial.ckpt"  # becomes `last` in `rotate`
        self.bad_batch_file = self.root / "bad_batch.json"  # the pairs of the batch that stopped the run
        self.log_file = self.root / "log.jsonl"
        self.results_file = self.root / "results.json"
        self.config_file = self.root / "config.yaml"

    def best(self, task: str) -> Path:
        """Return the path of the best checkpoint of a task or of `average`."""
        return self.root / f"best_{task}.ckpt"

    def holds_run(self) -> bool:
        """Return whether a run was started here."""
        return self.config_file.exists()

    def has_state(self) -> bool:
        """Return whether a training state was saved here, whole or damaged."""
        return self.last.exists() or self.previous.exists()

    def check_unused(self, names: Sequence[str] = (*OF_A_RUN, *OF_RUNS), resume: str | None = None) -> None:
        """Check that a new run can begin here; ConfigError if it is no folder or holds what matches one of `names`.

        Files of another kind may be there. `resume` is the value of `train.resume` that resumes a run here; None means
        the folder.
        """
        if self.holds_run():
            raise ConfigError(
                f"{self.root}: already holds a run; resume it with train.resume={resume or self.root}, "
                "or choose another train.output"
            )
        if os.path.lexists(self.root) and not self.root.is_dir():
            raise ConfigError(f"{self.root}: is no folder; choose another output folder")
        if found := [path.name for name in names for path in self.root.glob(name)]:
            raise ConfigError(
                f"{self.root}: holds {min(found)} of earlier runs, but no config.yaml; choose another output folder, "
                "or move that away"
            )

    def check_run(self) -> None:
        """Raise ConfigError, with the nearest run folder beside it or within it, if no run was started here."""
        if self.holds_run():
            return
        files = [self.root.parent / "config.yaml", *self.root.parent.glob("*/config.yaml")]
        runs = [str(file.parent) for file in (*files, *self.root.glob("*/config.yaml")) if file.is_file()]
        near = difflib.get_close_matches(str(self.root), runs, n=1, cutoff=0.0)
        fix = f"did you mean {near[0]}?" if near else "set train.resume to the folder of a run"
        raise ConfigError(f"{self.root}: is not a run folder (config.yaml is missing); {fix}")

    def locked(self) -> BinaryIO:
        """Lock the folder, see `files.locked`; two runs in one folder would overwrite each other's files."""
        return locked(self.root / ".lock")

    def create(self, config: Config, environment: dict[str, Any]) -> None:
        """Start a new run."""
        write_json(self.root / "environment.json", environment)
        write_text(self.config_file, to_yaml(config))

    def check_resumable(self, config: Config) -> dict[str, tuple[Any, Any]]:
        """Return the keys that differ and `train.allow_changes` permits, with their old and new values.

        ConfigError if there is no run, or other keys differ that change its numbers.
        """
        self.check_run()
        unknown = sorted(set(config.train.allow_changes) - _flatten(to_dict(config)).keys())
        if unknown:
            raise ConfigError(f"train.allow_changes: {unknown[0]!r} is not a config key such as train.epochs")
        changed = changed_keys(load_config(self.config_file), config)
        _refuse(f"{self.config_file}: the run was started with other values", changed, config)
        return changed

    def check_state(self, state: Path, meta: dict[str, Any], config: Config) -> None:
        """Check that a training state, described by `meta`, is of this run: of this config, but for changes in the log.

        CheckpointError if `meta` describes no training state; ConfigError if other keys differ that change its numbers.
        """
        if missing := {"epoch", "done", "step"} - meta.keys():
            raise CheckpointError(f"{state}: is not the state of a run (its description has no {min(missing)!r})")
        before = config_from_dict(meta["config"], str(state))
        logged = [entry["changes"] for entry in read_log(self.log_file) if entry["kind"] == "config"]
        changed = changed_keys(before, config)
        known = {k for k, (old, _) in changed.items() if any(changes.get(k, [])[:1] == [old] for changes in logged)}
        if os.path.basename(before.model.pretrained or "") == os.path.basename(config.model.pretrained or ""):
            known.add("model.pretrained")  # the same file elsewhere
        changed = {k: values for k, values in changed.items() if k not in known}
        _refuse(f"{state}: is of a run with other values", changed, config)

    def accept(self, changes: dict[str, tuple[Any, Any]], step: int) -> None:
        """Write allowed changes to the log and into config.yaml."""
        if not changes:
            return
        # The log comes first: after a kill between the two, the next resume logs the changes again.
        self.log({"kind": "config", "step": step, "changes": changes})
        overrides = [f"{key}={json.dumps(now, ensure_ascii=False)}" for key, (_, now) in changes.items()]
        write_text(self.config_file, to_yaml(load_config(self.config_file, overrides)))

    def rotate(self) -> None:
        """Make `next` the last state and the last state the previous one; a kill in between leaves the previous one."""
        with self._renaming():
            if self.last.exists():
                os.replace(self.last, self.previous)
            os.replace(self.next, self.last)

    def fall_back(self) -> None:
        """Replace a damaged or missing last state by the previous one."""
        with self._renaming():
            os.replace(self.previous, self.last)

    @contextlib.contextmanager
    def _renaming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.last}: cannot be replaced ({error.strerror}); make the folder writable") from error

    def results(self, scores: Callable[[dict[str, Any]], Any] = lambda _: None) -> dict[str, Any]:
        """Read results.json, or return empty results; a damaged file is a UserError.

        So is one with an evaluation for whose rows `scores` raises a KeyError.
        """
        if not self.results_file.exists():
            return {"best": {}, "evaluations": []}
        fix = "restore it, or delete it to resume without the past evaluations"
        results = read_json(self.results_file, _RESULTS, fix)
        try:
            for entry in (*results["evaluations"], *results["best"].values()):
                scores(entry["splits"])
        except KeyError as error:
            raise UserError(f"{self.results_file}: an evaluation has no row of {error}; {fix}") from error
        return results

    def finished_results(self, epochs: int) -> dict[str, Any] | None:
        """Read results.json if the run's last epoch, `epochs`, is evaluated; else return None."""
        results = self.results()
        done = any(entry["epoch"] == epochs for entry in results["evaluations"])
        best = results["best"].get("average", {"splits": ()})
        return results if done and results.get("selection_split") in best["splits"] else None

    def write_results(self, results: dict[str, Any]) -> None:
        """Replace results.json."""
        write_json(self.results_file, results)

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line to log.jsonl."""
        try:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise UserError(f"{self.log_file}: cannot be written ({error.strerror}); make room on the disk") from error

    def rewind(self, step: int, epochs: int) -> None:
        """Remove log lines after `step`, evaluations after epoch `epochs`, and files that a kill left unfinished.

        The best checkpoint of a removed epoch no longer counts: the next evaluation replaces it.
        """
        for leftover in self.root.glob(".*.partial.*"):
            with contextlib.suppress(OSError):
                leftover.unlink()
        results = self.results()
        late = [entry for entry in results["evaluations"] if entry["epoch"] > epochs]
        if late:
            results["evaluations"] = [entry for entry in results["evaluations"] if entry["epoch"] <= epochs]
            results["best"] = {task: best for task, best in results["best"].items() if best["epoch"] <= epochs}
            self.write_results(results)
        self._rewind_log(step, {entry["epoch"] for entry in results["evaluations"]})

    def _rewind_log(self, step: int, evaluated: set[int]) -> None:
        if not self.log_file.exists():
            return

        def stays(entry: dict[str, Any]) -> bool:
            if entry["kind"] == "config":
                return True
            return entry["step"] <= step and (entry["kind"] != "evaluation" or entry["epoch"] in evaluated)

        kept = [entry for entry in read_log(self.log_file) if stays(entry)]
        write_text(self.log_file, "".join(json.dumps(entry) + "\n" for entry in kept))


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "architecture":  # described sizes are one value
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
