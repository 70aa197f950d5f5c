"""Styles drawn by others: a user's ONNX network, or any program that reads a photo file and writes a sketch file."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ms_unireid.apps.optional import versions
from ms_unireid.apps.sketch.onnx_model import OnnxModel, fingerprint
from ms_unireid.apps.sketch.pictures import read_sketch, resize
from ms_unireid.apps.sketch.style import NOMINAL_HEIGHT, DrawFunction, Style, shift_lines, to_uint8
from ms_unireid.errors import ConfigError, DataError, EnvironmentProblem


@dataclass(frozen=True)
class OnnxStyle(Style):
    """A user's line-drawing network, see ``onnx_model``.

    Attributes:
        description: The YAML file that describes it.
        wander: How far lines are shifted at random, in pixels of a drawing 384 high.
    """

    description: str = ""
    wander: float = 0.0

    def versions(self) -> dict[str, str]:
        """Return onnxruntime's version and the network's fingerprint."""
        return {**versions(("onnxruntime",)), "drawing network": fingerprint(Path(self.description))}

    def varied(self, rng: np.random.Generator) -> OnnxStyle:
        """Return the style with a less steady hand."""
        return replace(self, wander=self.wander + float(rng.uniform(0.5, 2.0)))

    def load(self) -> DrawFunction:
        """Return a function that runs the network; UserError as `OnnxModel`."""
        model = _network(self.description)

        def draw(cutout: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            drawing = model.run(cutout)
            unit = cutout.shape[0] / NOMINAL_HEIGHT
            return to_uint8(shift_lines(drawing, self.wander * unit, rng) if self.wander else drawing)

        return draw


@dataclass(frozen=True)
class CommandStyle(Style):
    """A program, started once for each sketch, without a shell.

    Attributes:
        run: The command line. `{photo}` becomes the cut-out (PNG, RGB), `{sketch}` the file to write, `{seed}` a
            number that differs between variations.
        timeout: Seconds that one call may take.
    """

    run: str = ""
    timeout: float = 60.0

    def load(self) -> DrawFunction:
        """Check the command line and return a function that draws; it raises DataError if the program fails.

        Raises:
            ConfigError: If the command line cannot be split, or a placeholder is missing.
            EnvironmentProblem: If the program does not exist.
        """
        words = self._words()
        if shutil.which(words[0]) is None:
            raise EnvironmentProblem(
                f"the style command: there is no program {words[0]!r}; install it or give its path"
            )

        def draw(cutout: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            with tempfile.TemporaryDirectory(prefix="sketch") as folder:
                photo, sketch = Path(folder) / "photo.png", Path(folder) / "sketch.png"
                Image.fromarray(cutout).save(photo, compress_level=1)
                values = {"{photo}": str(photo), "{sketch}": str(sketch), "{seed}": str(int(rng.integers(2**31)))}
                self._call([_filled(word, values) for word in words])
                if not sketch.is_file():
                    raise DataError(f"the command {words[0]} ended with exit code 0, but wrote no {{sketch}}")
                return resize(read_sketch(sketch), cutout.shape[:2])

        return draw

    def _words(self) -> list[str]:
        try:
            words = shlex.split(self.run)
        except ValueError as error:
            raise ConfigError(f"the style command: {self.run!r} cannot be split into words ({error})") from error
        if not words or not all(any(mark in word for word in words[1:]) for mark in ("{photo}", "{sketch}")):
            raise ConfigError(
                "the style command: give the program with --style-option 'run=PROGRAM {photo} {sketch}', "
                f"found {self.run!r}"
            )
        return words

    def _call(self, words: list[str]) -> None:
        started = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            _, errors = started.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired as error:
            raise DataError(f"the command {words[0]} took more than {self.timeout:g} s") from error
        finally:
            _end(started)
        if started.returncode:
            last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise DataError(f"the command {words[0]} failed with exit code {started.returncode}: {last[0][:200]}")


@lru_cache(maxsize=1)
def _network(description: str) -> OnnxModel:
    """Load a network once for all variations."""
    return OnnxModel(Path(description), "the style onnx")


def _filled(word: str, values: dict[str, str]) -> str:
    for mark, value in values.items():
        word = word.replace(mark, value)
    return word


def _end(started: subprocess.Popen) -> None:
    """End the program and all processes that it started."""
    if started.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(started.pid, signal.SIGKILL)
        else:
            started.kill()
    started.communicate()
