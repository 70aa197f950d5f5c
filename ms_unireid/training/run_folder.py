"""What a run leaves on disk: resolved config, environment, log, results."""

import json
from pathlib import Path
from typing import Any

from ms_unireid.config import Config, load_config, to_dict, to_yaml
from ms_unireid.errors import ConfigError, UserError
from ms_unireid.files import write_json, write_text

# What may change between a run and its continuation: it alters no number of the run.
FREE_KEYS = {"data.root", "train.output", "train.resume", "train.log_every", "eval.splits"}
FREE_SECTION = "runtime"


class RunFolder:
    """The files of one run, each whole at any time.

    Args:
        root: The folder.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.last = self.root / "last.ckpt"
        self.log_file = self.root / "log.jsonl"
        self.results_file = self.root / "results.json"
        self.config_file = self.root / "config.yaml"

    def best(self, task: str) -> Path:
        """Return the path of a task's best checkpoint; `average` is one of the tasks."""
        return self.root / f"best_{task}.ckpt"

    def check_unused(self) -> None:
        """Check that a new run may start here.

        Raises:
            ConfigError: If the folder holds a run already.
        """
        if self.config_file.exists():
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

    def check_resumable(self, config: Config) -> None:
        """Check that a config continues this run.

        Raises:
            ConfigError: If there is no run, or the config would change its numbers; lists the keys.
        """
        if not self.config_file.exists():
            raise ConfigError(
                f"{self.root}: is not a run folder (no config.yaml); give train.resume the folder of a run"
            )
        before, now = (_flatten(to_dict(c)) for c in (load_config(self.config_file), config))
        checked = {k for k in now if not k.startswith(f"{FREE_SECTION}.")} - FREE_KEYS
        changed = [f"{k}: {before[k]} -> {now[k]}" for k in sorted(checked) if before[k] != now[k]]
        if changed:
            raise ConfigError(
                f"{self.config_file}: the run was started with other values ({'; '.join(changed)}); "
                "drop these changes to go on, or start a new run from its checkpoint with model.pretrained"
            )

    def results(self) -> dict[str, Any]:
        """Read results.json, or start it."""
        if not self.results_file.exists():
            return {"best": {}, "evaluations": []}
        return json.loads(self.results_file.read_text(encoding="utf-8"))

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
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise UserError(f"{self.log_file}: cannot be written ({error.strerror}); make room on the disk") from error

    def rewind_log(self, step: int) -> None:
        """Drop what the continued run writes again: later steps, unfinished evaluations, a torn last line."""
        if not self.log_file.exists():
            return
        evaluated = {entry["epoch"] for entry in self.results()["evaluations"]}
        kept = []
        for line in self.log_file.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry["step"] <= step and (entry["kind"] == "step" or entry["epoch"] in evaluated):
                kept.append(line + "\n")
        write_text(self.log_file, "".join(kept))


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
