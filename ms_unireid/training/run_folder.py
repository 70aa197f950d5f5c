"""The files of a run: resolved config, environment, log, results and checkpoints."""

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
    """Read a run's log.jsonl; skip a line that a kill cut off, and take a missing file for an empty log."""
    entries = []
    for line in log_file.read_text(encoding="utf-8").splitlines() if log_file.exists() else ():
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def selection_scores(rows: list[dict[str, Any]], text_protocol: str) -> dict[str, float]:
    """Return the R1 in percent that chooses the best checkpoint of each task, and the `average` of the three.

    `rows` come from `evaluator.to_json` on the selection split, `text_protocol` from `eval.selection_text_protocol`.
    """
    protocols = dict.fromkeys(TASKS, "exclude_source_photo") | {"text": text_protocol}
    found = {(row["task"], row["protocol"]): row["R1"] for row in rows}
    scores = {task: found[task, protocol] for task, protocol in protocols.items()}
    return {**scores, "average": sum(scores.values()) / len(scores)}


def improved(scores: dict[str, float], best: dict[str, dict[str, Any]]) -> list[str]:
    """List the tasks, `average` included, with a new best score; in a tie the earlier epoch stays the best."""
    return [task for task, score in scores.items() if task not in best or score > best[task]["R1"]]


def resumable_keys() -> set[str]:
    """List the config keys that may differ when a run is resumed."""
    sections = {section.name: dataclasses.fields(section.default_factory) for section in dataclasses.fields(Config)}
    return {f"{name}.{key.name}" for name, keys in sections.items() for key in keys if key.metadata.get("resumable")}


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

    def check_unused(self) -> None:
        """Raise ConfigError if the folder already holds a run."""
        if self.holds_run():
            raise ConfigError(
                f"{self.root}: already holds a run; resume it with train.resume={self.root}, "
                "or choose another train.output"
            )

    def create(self, config: Config, environment: dict[str, Any]) -> None:
        """Start a new run."""
        write_json(self.root / "environment.json", environment)
        write_text(self.config_file, to_yaml(config))

    def check_resumable(self, config: Config) -> dict[str, tuple[Any, Any]]:
        """Check that this run can be resumed with a config.

        Returns:
            The differing keys that `train.allow_changes` permits, with their old and new values.

        Raises:
            ConfigError: If there is no run, or other keys differ that change its numbers.
        """
        if not self.holds_run():
            raise ConfigError(
                f"{self.root}: is not a run folder (config.yaml is missing); set train.resume to the folder of a run"
            )
        before, now = (_flatten(to_dict(c)) for c in (load_config(self.config_file), config))
        unknown = sorted(set(config.train.allow_changes) - now.keys())
        if unknown:
            raise ConfigError(f"train.allow_changes: {unknown[0]!r} is not a config key such as train.epochs")
        changed = {k: (before[k], now[k]) for k in sorted(now.keys() - resumable_keys()) if before[k] != now[k]}
        refused = [k for k in changed if k not in config.train.allow_changes]
        if refused:
            listed = "; ".join(f"{k}: {changed[k][0]} -> {changed[k][1]}" for k in refused)
            raise ConfigError(
                f"{self.config_file}: the run was started with other values ({listed}); undo these changes, "
                f"allow them with train.allow_changes=[{','.join(changed)}], or start a new run from its checkpoint "
                "with model.pretrained"
            )
        return changed

    def accept(self, changes: dict[str, tuple[Any, Any]], step: int) -> None:
        """Write allowed changes to the log and into config.yaml."""
        if not changes:
            return
        # The log comes first: after a kill between the two, the next resume logs the changes again.
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

    def results(self) -> dict[str, Any]:
        """Read results.json, or return empty results; a damaged file is a UserError."""
        if not self.results_file.exists():
            return {"best": {}, "evaluations": []}
        try:
            return json.loads(self.results_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"{self.results_file}: is damaged ({error}); restore it, or delete it to resume without the past "
                "evaluations"
            ) from error

    def finished_results(self, epochs: int) -> dict[str, Any] | None:
        """Read results.json if the run's last epoch, `epochs`, is evaluated; else return None."""
        results = self.results()
        return results if any(entry["epoch"] == epochs for entry in results["evaluations"]) else None

    def write_results(self, results: dict[str, Any]) -> None:
        """Replace results.json."""
        write_json(self.results_file, results)

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line to log.jsonl."""
        try:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(_log_line(entry))
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
