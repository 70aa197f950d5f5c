"""What a run leaves on disk: resolved config, environment, log, results, and where its checkpoints lie."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ms_unireid.config import TASKS, Config, config_from_dict, load_config, to_dict, to_yaml
from ms_unireid.errors import ConfigError, UserError
from ms_unireid.files import write_json, write_text


def read_log(log_file: Path) -> list[dict[str, Any]]:
    """Read a run's log.jsonl; a line that a kill left torn is skipped, and a missing file is an empty log."""
    entries = []
    for line in log_file.read_text(encoding="utf-8").splitlines() if log_file.exists() else ():
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def selection_scores(rows: list[dict[str, Any]], text_protocol: str) -> dict[str, float]:
    """Return the R1 in percent that chooses each best checkpoint: of each task, and their `average`.

    Args:
        rows: Evaluation rows of the selection split, as `evaluator.to_json` lists them.
        text_protocol: The config's `eval.selection_text_protocol`.
    """
    protocols = dict.fromkeys(TASKS, "exclude_source_photo") | {"text": text_protocol}
    found = {(row["task"], row["protocol"]): row["R1"] for row in rows}
    scores = {task: found[task, protocol] for task, protocol in protocols.items()}
    return {**scores, "average": sum(scores.values()) / len(scores)}


def improved(scores: dict[str, float], best: dict[str, dict[str, Any]]) -> list[str]:
    """List the tasks (and `average`) whose score is higher than the best so far; the earlier epoch wins a tie."""
    return [task for task, score in scores.items() if task not in best or score > best[task]["R1"]]


def resumable_keys() -> set[str]:
    """List the config keys that may differ when a run is resumed."""
    sections = {section.name: dataclasses.fields(section.default_factory) for section in dataclasses.fields(Config)}
    return {f"{name}.{key.name}" for name, keys in sections.items() for key in keys if key.metadata.get("resumable")}


class RunFolder:
    """The files of one run, each whole at any time.

    Args:
        root: The folder.

    Attributes:
        last: The newest training state.
        previous: The one before it.
        next: Where a new state is written, to become `last` by `rotate`.
        bad_batch_file: The pairs of the batch that stopped the run.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.last = self.root / "last.ckpt"
        self.previous = self.root / "previous.ckpt"
        self.next = self.root / ".next.partial.ckpt"
        self.bad_batch_file = self.root / "bad_batch.json"
        self.log_file = self.root / "log.jsonl"
        self.results_file = self.root / "results.json"
        self.config_file = self.root / "config.yaml"

    def best(self, task: str) -> Path:
        """Return the path of a task's best checkpoint; `average` is one of the tasks."""
        return self.root / f"best_{task}.ckpt"

    def holds_run(self) -> bool:
        """Tell whether a run was started here."""
        return self.config_file.exists()

    def has_state(self) -> bool:
        """Tell whether a training state was saved here, whole or damaged."""
        return self.last.exists() or self.previous.exists()

    def check_unused(self) -> None:
        """Check that a new run may start here.

        Raises:
            ConfigError: If the folder holds a run already.
        """
        if self.holds_run():
            raise ConfigError(
                f"{self.root}: holds a run already; go on with it by train.resume={self.root}, "
                "or choose another train.output"
            )

    def create(self, config: Config, environment: dict[str, Any]) -> None:
        """Start a new run.

        Raises:
            UserError: If the folder cannot be written.
        """
        write_json(self.root / "environment.json", environment)
        write_text(self.config_file, to_yaml(config))

    def check_resumable(self, config: Config) -> dict[str, tuple[Any, Any]]:
        """Check that a config continues this run.

        Returns:
            The keys that `train.allow_changes` lets differ and that do, with their values before and now.

        Raises:
            ConfigError: If there is no run, or the config would change its numbers; lists the keys.
        """
        if not self.holds_run():
            raise ConfigError(
                f"{self.root}: is not a run folder (no config.yaml); give train.resume the folder of a run"
            )
        before, now = (_flatten(to_dict(c)) for c in (load_config(self.config_file), config))
        unknown = sorted(set(config.train.allow_changes) - now.keys())
        if unknown:
            raise ConfigError(f"train.allow_changes: {unknown[0]!r} is no key; expected one such as train.epochs")
        changed = {k: (before[k], now[k]) for k in sorted(now.keys() - resumable_keys()) if before[k] != now[k]}
        refused = [k for k in changed if k not in config.train.allow_changes]
        if refused:
            listed = "; ".join(f"{k}: {changed[k][0]} -> {changed[k][1]}" for k in refused)
            raise ConfigError(
                f"{self.config_file}: the run was started with other values ({listed}); drop these changes to go on, "
                f"insist on them with train.allow_changes=[{','.join(changed)}], or start a new run from its "
                "checkpoint with model.pretrained"
            )
        return changed

    def accept(self, changes: dict[str, tuple[Any, Any]], step: int) -> None:
        """Note changed keys in the log and write them, and no others, into config.yaml.

        Raises:
            UserError: If a file cannot be written.
        """
        if not changes:
            return
        # The note first: killed between the two, the continuation notes it again rather than never.
        self.log({"kind": "config", "step": step, "changes": changes})
        values = to_dict(load_config(self.config_file))
        for key, (_, now) in changes.items():
            *sections, name = key.split(".")
            section = values
            for part in sections:
                section = section[part]
            section[name] = now
        write_text(self.config_file, to_yaml(config_from_dict(values, str(self.config_file))))

    def rotate(self) -> None:
        """Make the state at `next` the last one, and the last one the previous one.

        Killed between the two renames, the run has a previous state only, and goes on from that.

        Raises:
            UserError: If the folder cannot be written.
        """
        with self._renaming():
            if self.last.exists():
                os.replace(self.last, self.previous)
            os.replace(self.next, self.last)

    def fall_back(self) -> None:
        """Put the previous state in the place of a last one that is damaged or missing.

        Raises:
            UserError: If the folder cannot be written.
        """
        with self._renaming():
            os.replace(self.previous, self.last)

    @contextlib.contextmanager
    def _renaming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.last}: cannot be replaced ({error.strerror}); make the folder writable") from error

    def results(self) -> dict[str, Any]:
        """Read results.json, or start it.

        Raises:
            UserError: If it is damaged.
        """
        if not self.results_file.exists():
            return {"best": {}, "evaluations": []}
        try:
            return json.loads(self.results_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"{self.results_file}: is damaged ({error}); restore it, or delete it to go on without the evaluations "
                "so far"
            ) from error

    def finished_results(self, epochs: int) -> dict[str, Any] | None:
        """Read results.json of a run whose last epoch, `epochs`, is evaluated; None for any other.

        Raises:
            UserError: If it is damaged.
        """
        results = self.results()
        return results if any(entry["epoch"] == epochs for entry in results["evaluations"]) else None

    def write_results(self, results: dict[str, Any]) -> None:
        """Replace results.json.

        Raises:
            UserError: If it cannot be written.
        """
        write_json(self.results_file, results)

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line to log.jsonl.

        Raises:
            UserError: If it cannot be written.
        """
        try:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(_log_line(entry))
        except OSError as error:
            raise UserError(f"{self.log_file}: cannot be written ({error.strerror}); make room on the disk") from error

    def rewind(self, step: int, epochs: int) -> None:
        """Drop what a run that goes on from a saved state writes again, and what a kill left half-written.

        Args:
            step: The state's step; later lines of the log go, as does a torn last one.
            epochs: How many epochs it has finished; evaluations of later ones go. A best checkpoint of such an
                epoch has replaced an earlier one, so it counts no more until an evaluation has replaced it in turn.

        Raises:
            UserError: If a file cannot be written.
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

        write_text(self.log_file, "".join(_log_line(entry) for entry in read_log(self.log_file) if stays(entry)))


def _log_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "architecture":  # described sizes are one value
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
