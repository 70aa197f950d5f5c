"""What an export writes."""

from dataclasses import dataclass

FORMATS = ("mindir", "onnx")
PRECISIONS = ("float32", "int8")


@dataclass(frozen=True)
class ExportOptions:
    """What to write.

    Attributes:
        formats: Of `FORMATS`.
        precision: Of `PRECISIONS`; int8 is for ONNX and for the two encoders, fusion has no weights.
        normalized: Give features of unit length.
        redo: Replace an earlier export in the folder.
    """

    formats: tuple[str, ...] = FORMATS
    precision: str = "float32"
    normalized: bool = False
    redo: bool = False
