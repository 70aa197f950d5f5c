"""YAML as texts, lists and sections only: what a text means is decided by the field that takes it.

YAML's own types would make a date of 2026-11-29, 8 of 010, 90 of 1:30 and false of no.
"""

from pathlib import Path
from typing import Any, ClassVar

import yaml

from ms_unireid.errors import ConfigError, escaped, shown
from ms_unireid.files import read_text

_MOST_BYTES, _MOST_LEVELS = 1 << 15, 20

_NOT_READ = "anchors, aliases and tags are not read; put text that begins with & * or ! in quotes"


class Scalar(str):
    """A text in YAML and where it stands; without quotes, `null`, `~` and nothing may mean that there is no value."""

    place = ""
    quoted = False

    @property
    def is_null(self) -> bool:
        """Whether it is YAML's way to write no value."""
        return not self.quoted and self.lower() in ("", "~", "null")


class _Loader(yaml.SafeLoader):
    """Gives every scalar as a `Scalar`; refuses anchors, aliases, tags, and keys that are lists or given twice."""

    yaml_implicit_resolvers: ClassVar = {}
    levels = 0

    def __init__(self, text: str):
        super().__init__(text)
        self.several_lines = "\n" in text

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            raise _refusal(_NOT_READ, event)
        if self.levels == _MOST_LEVELS:
            raise _refusal(f"more than {_MOST_LEVELS} levels", event)
        self.levels += 1
        node = super().compose_node(parent, index)
        self.levels -= 1
        return node

    def construct_scalar(self, node: yaml.ScalarNode) -> Scalar:
        text = Scalar(super().construct_scalar(node))
        text.quoted = node.style is not None
        if self.several_lines:
            text.place = f" (line {node.start_mark.line + 1})"
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Scalar, Any]:
        found: dict[Scalar, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node)
            if not isinstance(key, Scalar) or key in found:
                fault = f"the key {shown(key)} appears twice" if isinstance(key, Scalar) else "a key must be text"
                raise _refusal(fault, key_node)
            found[key] = self.construct_object(value_node, deep)
        return found


def _refusal(problem: str, place: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def read_yaml(path: Path) -> Any:
    """Read a file of at most 32 KiB as `parse_yaml` reads its text; an empty one is an empty dictionary.

    FileNotFoundError if there is none; ConfigError if it is no text file in UTF-8, or as `parse_yaml`.
    """
    name = escaped(str(path), 500)
    try:
        found = parse_yaml(read_text(path, _MOST_BYTES), name)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise ConfigError(f"{name}: cannot be read ({reason}); give a YAML file of options in UTF-8") from error
    return {} if found == "" else found


def parse_yaml(text: str, source: str) -> Any:
    """Parse a text as dictionaries, lists and `Scalar`s; an empty one is an empty `Scalar`.

    ConfigError, which names `source` and the line, if it is not valid YAML, has anchors, aliases, tags or a key twice,
    or is nested too deeply.
    """
    try:
        found = yaml.load(text, _Loader)
    # PyYAML leaves "\\UFFFFFFFF" and versions of thousands of digits to chr() and int().
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        detail = escaped(getattr(error, "problem", None) or " ".join(str(error).split()), 200)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise ConfigError(f"{source}: is not valid YAML ({detail}{line}); fix the syntax") from error
    return Scalar() if found is None else found
