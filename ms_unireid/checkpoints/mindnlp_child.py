"""The child process of `mindnlp_bridge`. MindNLP replaces PyTorch in it and patches other packages.

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

USER_ERROR = 2
_NAMED = 3


def main(name: str, file: Path) -> None:
    """Write the float32 tensors of a Hugging Face CLIP as safetensors, with its configuration as "config.json".

    After a user's mistake it exits with code 2; the last line on stderr is the class and message of the error.
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
        sys.exit(USER_ERROR)


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
        raise _user_error(name, error) from error
    if missing := sorted(info["missing_keys"]):
        some = ", ".join(missing[:_NAMED])
        raise CheckpointError(f"{name}: {len(missing)} tensors of CLIP are missing ({some}, ...); use a complete CLIP")
    return model


def _import(name: str) -> tuple[Any, Any]:
    """Return the configuration and model classes of CLIP on MindSpore, with the two readers below."""
    try:
        import mindnlp  # noqa: F401 - replaces PyTorch, so it comes before transformers
        import mindtorch
        from mindnlp.utils.safetensors_patch import PySafeSlice
        from transformers import CLIPConfig, CLIPModel, modeling_utils
    except Exception as error:  # incompatible packages can raise anything
        raise EnvironmentProblem(
            f"{name}: MindNLP cannot be imported ({type(error).__name__}: {_first_line(error)}); "
            f"install it in a separate environment: {install_extra('mindnlp')}"
        ) from error
    mindtorch.load = _pickle_reader(mindtorch.from_numpy)
    # Otherwise it publicly asks the hub to convert a model without safetensors.
    modeling_utils.auto_conversion = lambda *_, **__: (None, None, None)
    PySafeSlice.get = _exact_reader(PySafeSlice.get, mindtorch.from_numpy)
    return CLIPConfig, CLIPModel


def _pickle_reader(to_tensor: Callable[[np.ndarray], Any]) -> Callable[..., dict[str, Any]]:
    """Return a reader of pickled weights: MindNLP's own ignores `weights_only` and runs code in the pickle."""

    def load(file: str, **_: Any) -> dict[str, Any]:
        tensors = read_tensor_file(Path(file)).tensors
        return {n: to_tensor(cast(a, "float32") if dtype_name(a.dtype) in FLOATS else a) for n, a in tensors.items()}

    return load


def _exact_reader(plain: Callable[..., Any], to_tensor: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
    """Return a reader of tensors in safetensors: MindNLP's own turns bfloat16 into float16."""

    def get(self: Any, part: Any = None) -> Any:
        if self.get_dtype() != "BF16":
            return plain(self, part)
        count = int(np.prod(self.shape))
        array = np.fromfile(self.bufferfile.name, BFLOAT16, count, offset=self.start_offset).reshape(self.shape)
        array = cast(array, "float32")
        return to_tensor(array if part is None else array[part])

    return get


def _user_error(name: str, error: Exception) -> UserError:
    """Return our own error in the chain of a failed load, or a new one with its first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        cause = cause.__context__
    return CheckpointError(
        f"{name}: MindNLP cannot load it ({_first_line(error)}); expected a folder with config.json and the weights of "
        "a CLIP, or a name on the Hugging Face hub and access to the network"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _entry(name: str, tensor: Any) -> Entry:
    return Entry(name, dtype_of("float32"), tuple(tensor.shape), lambda: np.asarray(tensor.numpy()))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
