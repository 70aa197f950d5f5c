"""Open a file of tensors of any supported format, told apart by content, never by name."""

from pathlib import Path

from ms_unireid.conversion.folder_reader import read_folder
from ms_unireid.conversion.mindspore_file import looks_like_mindspore, read_mindspore
from ms_unireid.conversion.safetensors_reader import looks_like_safetensors, read_safetensors
from ms_unireid.conversion.tensor_file import TensorFile
from ms_unireid.conversion.torch_reader import read_torch
from ms_unireid.errors import CheckpointError

_HEAD = 64


def read_tensor_file(path: Path) -> TensorFile:
    """Open a PyTorch, safetensors or MindSpore file, or a Hugging Face folder; nothing in it is executed.

    Raises:
        CheckpointError: If there is none, it cannot be read, it is damaged, or it is something else.
    """
    try:
        if path.is_dir():
            return read_folder(path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if looks_like_safetensors(head):
            return read_safetensors(path)
        if looks_like_mindspore(head):
            return read_mindspore(path)
        return read_torch(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; expected a checkpoint, such as RUN/best_average.ckpt") from error
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror or error}); check the file and its rights"
        ) from error
