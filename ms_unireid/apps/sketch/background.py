"""Background removal: how much of each pixel of a photo belongs to the person.

Each method is a frozen dataclass of its options. `load()` runs in the process that uses the masks, because networks
cannot be sent to another process.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.apps.optional import need, versions
from ms_unireid.apps.sketch.onnx_model import OnnxModel, fingerprint
from ms_unireid.apps.sketch.pictures import opacity, pad_to, read_mask, resize
from ms_unireid.errors import ConfigError, DataError, EnvironmentProblem
from ms_unireid.installation import install_extra

# Takes uint8 (H, W, 3) and the photo's relative name; gives the opacity of the person, float32 (H, W), 0-1.
MaskFunction = Callable[[np.ndarray, str], np.ndarray]

_INSTALL = (
    "install it with: pip install -r requirements-sketch.txt in a separate environment, or together with MindSpore "
    f"{install_extra('sketch')}; or choose another --background (mask, onnx, none)"
)
_NETWORK_SIZE = (384, 288)  # wider than a photo, whose edges are repeated: the network finds nobody in a narrow picture
# Whether the photo is mirrored, and the share of the network's picture that it takes.
_VIEWS = ((False, 1.0), (True, 1.0), (False, 0.85), (True, 0.65))


@dataclass(frozen=True)
class Background:
    """A way to find the person. The fields of a subclass are its options."""

    def versions(self) -> dict[str, str]:
        """Return the versions of packages and files that the masks depend on."""
        return {}

    def load(self) -> MaskFunction:
        """Check the options, load what is needed and return the function that finds the person.

        UserError if a package or a file is missing, or an option is out of range.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class NoBackground(Background):
    """Keeps the whole photo, for photos that are cut out already and for programs that do it themselves."""

    def load(self) -> MaskFunction:
        """Return a function that keeps every pixel."""
        return lambda photo, name: np.ones(photo.shape[:2], np.float32)


@dataclass(frozen=True)
class MaskFolder(Background):
    """Reads ready masks: white on black, or cut-outs whose transparency is the mask.

    Attributes:
        folder: Folder of the masks, under the photos' relative paths, with the photo's suffix or `.png`.
    """

    folder: str = ""

    def load(self) -> MaskFunction:
        """Return a function that reads a photo's mask; it raises DataError if there is none.

        ConfigError if the folder does not exist.
        """
        if not self.folder or not Path(self.folder).is_dir():
            raise ConfigError(f"--background mask: no folder {self.folder!r}; set --background-option folder=DIR")
        return self._mask

    def _mask(self, photo: np.ndarray, name: str) -> np.ndarray:
        same = Path(self.folder) / name
        files = [file for file in (same, same.with_suffix(".png")) if file.is_file()]
        if not files:
            raise DataError(f"{same}: the mask of {name} is missing, also as .png. Fix: put it into {self.folder}")
        return resize(read_mask(files[0]), photo.shape[:2]).astype(np.float32) / 255


@dataclass(frozen=True)
class MediaPipe(Background):
    """MediaPipe's selfie segmentation, the default.

    Attributes:
        views: Number of views of the photo, 1 to 4: as it is, mirrored, smaller, smallest and mirrored. The result is
            half-way between their mean and their maximum, so that a head found in one view of four is kept.
        unsure: Probability of person up to which a pixel is background.
        sure: Probability from which on a pixel is kept in full.
        refine: Let OpenCV's grabCut decide uncertain pixels; slower.
    """

    views: int = 4
    unsure: float = 0.12
    sure: float = 0.4
    refine: bool = False

    def versions(self) -> dict[str, str]:
        """Return MediaPipe's version, and OpenCV's with `refine`."""
        return versions(("mediapipe", *(("opencv-contrib-python",) if self.refine else ())))

    def load(self) -> MaskFunction:
        """Return a function that runs the network.

        Raises:
            ConfigError: If `views` is not 1 to 4.
            EnvironmentProblem: If MediaPipe is missing, or its version contains no model.
        """
        if not 1 <= self.views <= len(_VIEWS):
            raise ConfigError(f"--background-option views={self.views}: expected 1 to {len(_VIEWS)}")
        segment = _open_mediapipe()

        def mask(photo: np.ndarray, name: str) -> np.ndarray:
            found = np.stack([_segment_view(segment, photo, *view) for view in _VIEWS[: self.views]])
            probability = (found.mean(axis=0) + found.max(axis=0)) / 2
            kept = opacity(probability, self.unsure, self.sure)
            return np.where(kept < 1, kept * _grab_cut(photo, probability), kept) if self.refine else kept

        return mask


@dataclass(frozen=True)
class Rembg(Background):
    """Any network of the package rembg, which downloads its weights at the first use.

    Attributes:
        model: One of rembg's names, such as u2net, u2net_human_seg or isnet-general-use.
        unsure: Probability of person up to which a pixel is background.
        sure: Probability from which on a pixel is kept in full.
    """

    model: str = "u2net_human_seg"
    unsure: float = 0.1
    sure: float = 0.45

    def versions(self) -> dict[str, str]:
        """Return the versions of rembg and onnxruntime."""
        return versions(("rembg", "onnxruntime"))

    def load(self) -> MaskFunction:
        """Return a function that runs the network.

        EnvironmentProblem if rembg is missing or cannot open the network.
        """
        rembg = need("rembg", "the background rembg", "install it with: pip install 'rembg[cpu]'")
        try:
            session = rembg.new_session(self.model)
        except Exception as error:  # rembg has no common class for its errors
            reason = " ".join(str(error).split())[:200]
            raise EnvironmentProblem(
                f"rembg cannot open {self.model!r} ({reason}); check the name; weights are downloaded once"
            ) from error

        def mask(photo: np.ndarray, name: str) -> np.ndarray:
            found = np.asarray(rembg.remove(photo, session=session, only_mask=True), np.float32) / 255
            return opacity(found, self.unsure, self.sure)

        return mask


@dataclass(frozen=True)
class OnnxBackground(Background):
    """A user's network that gives the probability of person, see ``onnx_model``.

    Attributes:
        description: The YAML file that describes it.
        unsure: Probability of person up to which a pixel is background.
        sure: Probability from which on a pixel is kept in full.
    """

    description: str = ""
    unsure: float = 0.1
    sure: float = 0.45

    def versions(self) -> dict[str, str]:
        """Return onnxruntime's version and the network's fingerprint."""
        return {**versions(("onnxruntime",)), "background network": fingerprint(Path(self.description))}

    def load(self) -> MaskFunction:
        """Return a function that runs the network; UserError as `OnnxModel`."""
        model = OnnxModel(Path(self.description), "the background onnx")
        return lambda photo, name: opacity(model.run(photo), self.unsure, self.sure)


BACKGROUNDS: dict[str, Background] = {
    "mediapipe": MediaPipe(),
    "rembg": Rembg(),
    "onnx": OnnxBackground(),
    "mask": MaskFolder(),
    "none": NoBackground(),
}


def _open_mediapipe() -> Any:
    try:
        with _silent_stderr():
            mediapipe = need("mediapipe", "the background mediapipe", _INSTALL)
            segment = mediapipe.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
            segment.process(np.zeros((*_NETWORK_SIZE, 3), np.uint8))
            return segment
    except (AttributeError, OSError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"the installed mediapipe has no selfie segmentation model in it (0.10.18 has); {_INSTALL}"
        ) from error


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what MediaPipe's compiled part prints when it starts, which would break the progress bar."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _segment_view(segment: Any, photo: np.ndarray, mirrored: bool, fill: float) -> np.ndarray:
    picture, place = pad_to(photo[:, ::-1] if mirrored else photo, _NETWORK_SIZE, fill)
    found = segment.process(np.ascontiguousarray(picture)).segmentation_mask[place]
    found = resize(np.ascontiguousarray(found), photo.shape[:2]).clip(0, 1)
    return found[:, ::-1] if mirrored else found


def _grab_cut(photo: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return where grabCut finds the person, float32 (H, W) of 0 or 1, starting from the network's probability."""
    cv2 = need("cv2", "the option refine", _INSTALL)
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    labels = np.where(probability > 0.4, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[probability > 0.95], labels[probability < 0.05] = cv2.GC_FGD, cv2.GC_BGD
    if not (labels % 2 == 1).any() or not (labels % 2 == 0).any():
        return np.ones_like(probability)  # grabCut needs pixels of both kinds
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(photo[..., ::-1]), labels, None, *models, 2, cv2.GC_INIT_WITH_MASK)
    return (labels % 2).astype(np.float32)
