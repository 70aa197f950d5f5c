"""A user's ONNX network, described by a YAML file: it takes a picture and gives one grey picture.

    model: drawer.onnx            # beside this file
    input: {size: [512, 512], layout: NCHW, channels: RGB, range: [0, 1], mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225]}
    output: {channel: 0, activation: sigmoid, invert: true}

docs/sketches.md explains every key.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ms_unireid.apps.optional import need
from ms_unireid.apps.sketch.pictures import pad_to, resize
from ms_unireid.config import overridden
from ms_unireid.errors import ConfigError
from ms_unireid.installation import install_extra
from ms_unireid.plain_yaml import read_yaml

_INSTALL = f"install it with: {install_extra('onnx')}"


@dataclass(frozen=True)
class OnnxInput:
    """The input of the network.

    Attributes:
        name: Name of the input; null takes the first.
        size: Height and width in pixels.
        layout: Order of the axes.
        channels: Order of the colours, or one grey channel.
        range: Values of black and white, before mean and deviation.
        mean: Subtracted, one value or one for each channel.
        std: Divided by, one value or one for each channel.
        fit: `pad` keeps the photo's proportions and repeats its edges; `stretch` does not keep them.
    """

    name: str | None = None
    size: tuple[int, int] = (384, 288)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: Literal["RGB", "BGR", "grey"] = "RGB"
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    fit: Literal["pad", "stretch"] = "pad"


@dataclass(frozen=True)
class OnnxOutput:
    """The output of the network: the probability of person for a background, the lightness for a style.

    Attributes:
        name: Name of the output; null takes the first.
        channel: Number of the channel, from 0.
        activation: Applied to the output; softmax runs over the channels.
        range: Values that become 0 and 1; null takes the least and the greatest value of each picture.
        invert: Swap 0 and 1, for a network that draws white on black.
        threshold: Values from here on become 1, those below 0; null keeps the values.
    """

    name: str | None = None
    channel: int = 0
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    range: tuple[float, float] | None = (0.0, 1.0)
    invert: bool = False
    threshold: float | None = None


@dataclass(frozen=True)
class OnnxDescription:
    """The whole YAML file."""

    model: str = ""
    input: OnnxInput = field(default_factory=OnnxInput)
    output: OnnxOutput = field(default_factory=OnnxOutput)


def read_description(path: Path) -> OnnxDescription:
    """Read and check the YAML file.

    ConfigError if it cannot be read, has an unknown key or a wrong value, or names no network file.
    """
    try:
        values = read_yaml(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the YAML file of an ONNX network"
        ) from error
    description = overridden(OnnxDescription(), values, str(path))
    if not description.model or not (path.parent / description.model).is_file():
        raise ConfigError(f"{path}: model: expected the name of an ONNX file beside it, found {description.model!r}")
    if min(description.input.size) < 1 or 0 in description.input.std:
        raise ConfigError(f"{path}: input: size must be positive and std not 0")
    return description


def fingerprint(path: Path) -> str:
    """Return the first 16 digits of the SHA-256 of description and network together.

    ConfigError as `read_description`.
    """
    network = path.parent / read_description(path).model
    return hashlib.sha256(path.read_bytes() + network.read_bytes()).hexdigest()[:16]


class OnnxModel:
    """A loaded network on one CPU thread.

    Args:
        path: The YAML file that describes it.
        user: The part of the program that needs the network, for messages.

    Raises:
        ConfigError: If the network cannot be loaded or does not fit its description.
        EnvironmentProblem: If onnxruntime is missing.
    """

    def __init__(self, path: Path, user: str):
        runtime = need("onnxruntime", user, _INSTALL)
        self.path, self.description = path, read_description(path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the worker processes share the cores
        options.log_severity_level = 3
        file = path.parent / self.description.model
        try:
            self.session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each status, without a common base
            raise ConfigError(f"{file}: not an ONNX network that onnxruntime can run ({_short(error)})") from error
        self.input = self._named(self.description.input.name, [i.name for i in self.session.get_inputs()], "input")
        self.output = self._named(self.description.output.name, [o.name for o in self.session.get_outputs()], "output")

    def run(self, photo: np.ndarray) -> np.ndarray:
        """Apply the network to uint8 (H, W, 3); return float32 (H, W), 0-1.

        ConfigError if the network refuses its input, or its output is not a picture.
        """
        spec = self.description.input
        if spec.fit == "pad":
            picture, place = pad_to(photo, spec.size)
        else:
            picture, place = resize(photo, spec.size), (slice(None), slice(None))
        try:
            (result,) = self.session.run([self.output], {self.input: to_network(picture, spec)})
        except Exception as error:
            raise ConfigError(
                f"{self.path}: the network refuses its input ({_short(error)}); correct the section input"
            ) from error
        grey = resize(from_network(result, self.description, self.path), spec.size)
        return resize(np.ascontiguousarray(grey[place]), photo.shape[:2]).clip(0, 1)

    def _named(self, name: str | None, found: list[str], what: str) -> str:
        if name is None:
            return found[0]
        if name not in found:
            raise ConfigError(f"{self.path}: {what}.name: the network has no {name!r}; it has {', '.join(found)}")
        return name


def to_network(picture: np.ndarray, spec: OnnxInput) -> np.ndarray:
    """Turn uint8 (H, W, 3) into the network's float32 input, with a batch axis."""
    channels = picture.astype(np.float32)
    if spec.channels == "grey":
        channels = channels @ np.array([[0.299], [0.587], [0.114]], np.float32)
    elif spec.channels == "BGR":
        channels = channels[..., ::-1]
    low, high = spec.range
    values = channels / 255 * (high - low) + low
    values = (values - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    axes = (2, 0, 1) if spec.layout == "NCHW" else (0, 1, 2)
    return np.ascontiguousarray(values.transpose(axes)[None], np.float32)


def from_network(result: Any, description: OnnxDescription, path: Path) -> np.ndarray:
    """Turn the network's output into float32 (H, W), 0-1.

    ConfigError if it is not one picture of finite numbers, or the channel is missing.
    """
    spec, array = description.output, np.asarray(result, np.float32)
    array = array[0] if array.ndim == 4 or (array.ndim == 3 and array.shape[0] == 1) else array
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and description.input.layout == "NHWC":
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or not array.size or not np.isfinite(array).all():
        shape = np.shape(result)
        raise ConfigError(f"{path}: output: expected a picture of finite numbers, found shape {list(shape)}")
    if not 0 <= spec.channel < len(array):
        raise ConfigError(f"{path}: output.channel {spec.channel}: the network gives {len(array)} channels")
    grey = _activated(array, spec)
    low, high = (float(grey.min()), float(grey.max())) if spec.range is None else spec.range
    grey = np.clip((grey - low) / (high - low if high != low else 1.0), 0, 1)
    grey = 1 - grey if spec.invert else grey
    return np.ascontiguousarray(grey if spec.threshold is None else grey >= spec.threshold, np.float32)


def _activated(array: np.ndarray, spec: OnnxOutput) -> np.ndarray:
    if spec.activation == "softmax":
        powers = np.exp(array - array.max(axis=0))
        return powers[spec.channel] / powers.sum(axis=0)
    grey = array[spec.channel]
    return 1 / (1 + np.exp(-grey.clip(-60, 60))) if spec.activation == "sigmoid" else grey


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
