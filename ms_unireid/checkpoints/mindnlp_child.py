"""What `mindnlp_bridge` runs in a process of its own: MindNLP takes PyTorch's place in it, and patches other packages.

python -m ms_unireid.checkpoints.mindnlp_child NAME_OR_PATH FILE
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ms_unireid.checkpoints.formats.any_file import read_tensor_file
from ms_unireid.checkpoints.formats.dtypes import BFLOAT16, FLOATS, cast, dtype_name, dtype_of
from ms_unireid.checkpoints.formats.safetensors_file import write_safetensors
from ms_unireid.checkpoints.formats.tensor_file import Entry
from ms_unireid.errors import CheckpointError, EnvironmentProblem, UserError
from ms_unireid.files import replacing
from ms_unireid.installation import install_extra

REFUSED = 2
_NAMED = 3


def main(name: str, file: Path) -> None:
    """Write the float32 tensors of a Hugging Face CLIP as safetensors, its configuration under "config.json".

    Exits with code 2 after a mistake of the user's; the last line on stderr is then its class and message.
    """
    try:
        model = _load(name)
        print(f"{name}: writing {file.name}", file=sys.stderr)
        metadata = {"format": "pt", "config.json": model.config.to_json_string(use_diff=False)}
        entries = [_entry(*item) for item in model.state_dict().items()]
        with replacing(file) as temporary:
            write_safetensors(temporary, entries, metadata)
    except UserError as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(REFUSED)


def _load(name: str) -> Any:
    print(f"{name}: importing MindNLP", file=sys.stderr)
    config_class, model_class = _import(name)
    print(f"{name}: loading", file=sys.stderr)
    try:
        kind = config_class.get_config_dict(name)[0].get("model_type")
        if kind != "clip":
            raise CheckpointError(f"{name}: its config.json has model_type {kind!r}; expected 'clip'")
        model, info = model_class.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _refusal(name, error) from error
    if missing := sorted(info["missing_keys"]):
        some = ", ".join(missing[:_NAMED])
        raise CheckpointError(f"{name}: lacks {len(missing)} of CLIP's tensors ({some}, ...); expected a whole CLIP")
    return model


def _import(name: str) -> tuple[Any, Any]:
    """Return CLIP's configuration and model classes, on MindSpore and with the two readers below."""
    try:
        import mindnlp  # noqa: F401 - takes PyTorch's place, so it comes before transformers
        import mindtorch
        from mindnlp.utils.safetensors_patch import PySafeSlice
        from transformers import CLIPConfig, CLIPModel, modeling_utils
    except Exception as error:  # packages that do not fit together fail in any way
        raise EnvironmentProblem(
            f"{name}: MindNLP cannot be imported ({type(error).__name__}: {_first_line(error)}); "
            f"install it in an environment of its own: {install_extra('mindnlp')}"
        ) from error
    mindtorch.load = _pickle_reader(mindtorch.from_numpy)
    # Else it asks the hub to convert a model that has no safetensors, in public.
    modeling_utils.auto_conversion = lambda *_, **__: (None, None, None)
    PySafeSlice.get = _exact_reader(PySafeSlice.get, mindtorch.from_numpy)
    return CLIPConfig, CLIPModel


def _pickle_reader(to_tensor: Callable[[np.ndarray], Any]) -> Callable[..., dict[str, Any]]:
    """Return what reads pickled weights: MindNLP's own ignores `weights_only` and runs what a pickle asks for."""

    def load(file: str, **_: Any) -> dict[str, Any]:
        tensors = read_tensor_file(Path(file)).tensors
        return {n: to_tensor(cast(a, "float32") if dtype_name(a.dtype) in FLOATS else a) for n, a in tensors.items()}

    return load


def _exact_reader(plain: Callable[..., Any], to_tensor: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
    """Return what reads a tensor of a safetensors file: MindNLP's own squeezes bfloat16 into float16."""

    def get(self: Any, part: Any = None) -> Any:
        if self.get_dtype() != "BF16":
            return plain(self, part)
        count = int(np.prod(self.shape))
        array = np.fromfile(self.bufferfile.name, BFLOAT16, count, offset=self.start_offset).reshape(self.shape)
        array = cast(array, "float32")
        return to_tensor(array if part is None else array[part])

    return get


def _refusal(name: str, error: Exception) -> UserError:
    """Return the error of ours behind a failed load, or one that has its first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        cause = cause.__context__
    return CheckpointError(
        f"{name}: MindNLP cannot load it ({_first_line(error)}); expected a folder with config.json and the weights of "
        "a CLIP, or the name of one on the Hugging Face hub and a network that reaches it"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _entry(name: str, tensor: Any) -> Entry:
    return Entry(name, dtype_of("float32"), tuple(tensor.shape), lambda: np.asarray(tensor.numpy()))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
