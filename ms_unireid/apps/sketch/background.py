"""Background removal: for each photo, how much of each pixel belongs to the person.

Each method is a frozen dataclass of its parameters. `load()` gives the function that does the work, and is called in
the process that will use it: networks do not travel between processes.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ms_unireid.apps.optional import need, versions
from ms_unireid.apps.sketch.onnx_model import OnnxModel, fingerprint
from ms_unireid.apps.sketch.pictures import opacity, pad_to, read_grey, resize
from ms_unireid.errors import ConfigError, DataError, EnvironmentProblem
from ms_unireid.installation import install_extra

INSTALL = (
    "install it with: pip install -r requirements-sketch.txt in an environment of its own, or beside MindSpore "
    f"{install_extra('sketch')}; or choose another --background (mask, onnx, none)"
)
# uint8 (H, W, 3) and the photo's relative name to opacity, float32 (H, W), 0-1.
Masker = Callable[[np.ndarray, str], np.ndarray]


class Background(Protocol):
    """A way to tell the person from the background."""

    def versions(self) -> dict[str, str]:
        """Return what the masks depend on beside the parameters: package versions and file fingerprints."""

    def load(self) -> Masker:
        """Get ready to mask photos in this process.

        Raises:
            UserError: If a package or a file is missing or does not fit.
        """


@dataclass(frozen=True)
class NoBackground:
    """Keep the whole photo, for photos that are cut out already and for programs that do it themselves."""

    def versions(self) -> dict[str, str]:
        """Return nothing: nothing is used."""
        return {}

    def load(self) -> Masker:
        """Return a function that keeps everything."""
        return lambda photo, name: np.ones(photo.shape[:2], np.float32)


@dataclass(frozen=True)
class MaskFolder:
    """Ready masks, for example from a service: white on black, or cut-outs whose transparency is the mask.

    Attributes:
        folder: Holds them under the photos' relative paths, with the photo's ending or `.png`.
    """

    folder: str = ""

    def versions(self) -> dict[str, str]:
        """Return nothing: masks are looked at one by one."""
        return {}

    def load(self) -> Masker:
        """Return a function that reads a photo's mask; it raises DataError if there is none.

        Raises:
            ConfigError: If the folder is not there.
        """
        if not self.folder or not Path(self.folder).is_dir():
            raise ConfigError(f"--background mask: no folder {self.folder!r}; set --background-option folder=DIR")
        return self._mask

    def _mask(self, photo: np.ndarray, name: str) -> np.ndarray:
        same = Path(self.folder) / name
        files = [file for file in (same, same.with_suffix(".png")) if file.is_file()]
        if not files:
            raise DataError(f"{same}: the mask of {name} is missing, also as .png. Fix: put it into {self.folder}")
        return resize(read_grey(files[0]), photo.shape[:2]).astype(np.float32) / 255


@dataclass(frozen=True)
class MediaPipe:
    """MediaPipe's selfie segmentation: the default. It is made for people who fill a picture, as in a padded photo.

    Attributes:
        views: How many looks are taken: as it is, mirrored, smaller, smallest and mirrored. What is believed lies
            half-way between their mean and their maximum: a head that one look of four sees is rather a head.
        unsure: Probability of person up to which a pixel is background.
        sure: Probability from which on it is kept in full.
        refine: Let OpenCV's grabCut decide what is unsure; slower. What is sure stays.
    """

    views: int = 4
    unsure: float = 0.12
    sure: float = 0.4
    refine: bool = False

    def versions(self) -> dict[str, str]:
        """Return MediaPipe's version, and OpenCV's if it refines."""
        return versions(("mediapipe", *(("opencv-contrib-python",) if self.refine else ())))

    def load(self) -> Masker:
        """Return a function that asks the network.

        Raises:
            ConfigError: For a number of views other than 1 to 4.
            EnvironmentProblem: Without MediaPipe, or with a version that has no model in it.
        """
        if not 1 <= self.views <= len(_VIEWS):
            raise ConfigError(f"--background-option views={self.views}: expected 1 to {len(_VIEWS)}")
        segment = _open_mediapipe()

        def mask(photo: np.ndarray, name: str) -> np.ndarray:
            looks = np.stack([_look(segment, photo, *view) for view in _VIEWS[: self.views]])
            probability = (looks.mean(axis=0) + looks.max(axis=0)) / 2
            kept = opacity(probability, self.unsure, self.sure)
            return np.where(kept < 1, kept * _grab_cut(photo, probability), kept) if self.refine else kept

        return mask


@dataclass(frozen=True)
class Rembg:
    """Any network of the package rembg, which fetches its weights at the first use.

    Attributes:
        model: A name of rembg's, such as u2net, u2net_human_seg or isnet-general-use.
        unsure: Probability of person up to which a pixel is background.
        sure: Probability from which on it is kept in full.
    """

    model: str = "u2net_human_seg"
    unsure: float = 0.1
    sure: float = 0.45

    def versions(self) -> dict[str, str]:
        """Return rembg's version."""
        return versions(("rembg", "onnxruntime"))

    def load(self) -> Masker:
        """Return a function that asks the network.

        Raises:
            EnvironmentProblem: Without rembg, or if it cannot open the network.
        """
        rembg = need("rembg", "the background rembg", "install it with: pip install 'rembg[cpu]'")
        try:
            session = rembg.new_session(self.model)
        except Exception as error:  # a missing network, a wrong name, a broken file: rembg has no class for them
            reason = " ".join(str(error).split())[:200]
            raise EnvironmentProblem(f"rembg cannot open {self.model!r} ({reason}); it fetches weights once") from error

        def mask(photo: np.ndarray, name: str) -> np.ndarray:
            found = np.asarray(rembg.remove(photo, session=session, only_mask=True), np.float32) / 255
            return opacity(found, self.unsure, self.sure)

        return mask


@dataclass(frozen=True)
class OnnxBackground:
    """A user's network that gives the probability of person, see ``onnx_model``.

    Attributes:
        description: The YAML file that describes it.
        unsure: Probability of person up to which a pixel is background.
        sure: Probability from which on it is kept in full.
    """

    description: str = ""
    unsure: float = 0.1
    sure: float = 0.45

    def versions(self) -> dict[str, str]:
        """Return onnxruntime's version and the network's fingerprint."""
        return {**versions(("onnxruntime",)), "background network": fingerprint(Path(self.description))}

    def load(self) -> Masker:
        """Return a function that asks the network.

        Raises:
            UserError: As `OnnxModel`.
        """
        model = OnnxModel(Path(self.description), "the background onnx")
        return lambda photo, name: opacity(model.run(photo), self.unsure, self.sure)


BACKGROUNDS: dict[str, Background] = {
    "mediapipe": MediaPipe(),
    "rembg": Rembg(),
    "onnx": OnnxBackground(),
    "mask": MaskFolder(),
    "none": NoBackground(),
}

_NETWORK_SIZE = (384, 288)  # the photo's edges repeated at its sides: the network wants a square-like picture
# (mirrored, share of the size that the photo takes)
_VIEWS = ((False, 1.0), (True, 1.0), (False, 0.85), (True, 0.65))


def _open_mediapipe() -> Any:
    try:
        with _quiet():
            mediapipe = need("mediapipe", "the background mediapipe", INSTALL)
            segment = mediapipe.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
            segment.process(np.zeros((*_NETWORK_SIZE, 3), np.uint8))
            return segment
    except (AttributeError, OSError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"the installed mediapipe has no selfie segmentation model in it (0.10.18 has); {INSTALL}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what MediaPipe's compiled part prints in every process at its start from the progress bar."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _look(segment: Any, photo: np.ndarray, mirrored: bool, fill: float) -> np.ndarray:
    picture, place = pad_to(photo[:, ::-1] if mirrored else photo, _NETWORK_SIZE, fill)
    found = segment.process(np.ascontiguousarray(picture)).segmentation_mask[place]
    found = resize(np.ascontiguousarray(found), photo.shape[:2]).clip(0, 1)
    return found[:, ::-1] if mirrored else found


def _grab_cut(photo: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return where grabCut sees the person, float32 (H, W) of 0 or 1, starting from the network's opinion."""
    cv2 = need("cv2", "the option refine", INSTALL)
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    labels = np.where(probability > 0.4, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[probability > 0.95], labels[probability < 0.05] = cv2.GC_FGD, cv2.GC_BGD
    if not (labels % 2 == 1).any() or not (labels % 2 == 0).any():
        return np.ones_like(probability)  # one side is empty: nothing to tell apart
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(photo[..., ::-1]), labels, None, *models, 2, cv2.GC_INIT_WITH_MASK)
    return (labels % 2).astype(np.float32)
