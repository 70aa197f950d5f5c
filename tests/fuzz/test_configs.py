"""Damaged configs and overrides give the values that plain YAML has for them, or are refused."""

import dataclasses

import pytest
import yaml
from fuzz.fuzzing import damaged, outcome, tries
from hypothesis import given
from hypothesis import strategies as st

from ms_unireid.config import CONFIGS, Config, load_config, to_dict

_FILES = {
    path.relative_to(CONFIGS).as_posix(): b"".join(
        line for line in path.read_bytes().splitlines(keepends=True) if not line.startswith((b"base:", b"#"))
    )
    for path in sorted(CONFIGS.rglob("*.yaml"))
}
_KEYS = [f"{section}.{key}" for section, values in to_dict(Config()).items() for key in values]
_VALUES = [
    "1", "-1", "0", "1e-5", "1E400", "nan", ".inf", "1_000", "010", "0x10", "1:30", "yes", "off", "true", "True",
    "null", "~", "", "2026-11-29", "2026-02-30", "[1, 2]", "[", "[" * 5000, "{a: 1}", "{a: 1, a: 2}", "&a 1", "*a",
    "'x'", "!!python/name:os.system", '"\\ud83d"', "x # y", "- 1", "9" * 5000, "a: b", "\u2028", "\x00", "\udcff",
    "text", "sketch", "[text, sketch]", "ViT-B/16",
]  # fmt: skip


def _agrees(found, written):
    """Compare a value of a config with the text or list that YAML has without any types."""
    if dataclasses.is_dataclass(found):
        return all(_agrees(getattr(found, key), value) for key, value in written.items())
    if isinstance(written, list):
        return len(found) == len(written) and all(map(_agrees, found, written))
    if found is None or isinstance(found, bool):
        return written.lower() in {None: ("", "~", "null"), True: ("true",), False: ("false",)}[found]
    if isinstance(found, int | float):
        return float(found) == float(written)
    return str(found) == written


def _read(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_bytes(data)
    config = outcome(load_config, path)
    if config is not None:
        written = yaml.load(data.decode("utf-8-sig"), yaml.BaseLoader)
        assert not written or _agrees(config, written)
    return config


@pytest.mark.parametrize("name", _FILES)
def test_a_whole_config(tmp_path_factory, name):
    assert _read(tmp_path_factory, _FILES[name]) is not None


@tries(1000)
@given(damaged(_FILES))
def test_a_damaged_config(tmp_path_factory, found):
    _read(tmp_path_factory, found[1])


@tries(1000)
@given(st.sampled_from(_KEYS), st.sampled_from(_VALUES) | st.text(max_size=20))
def test_a_strange_override(key, value):
    config = outcome(load_config, None, [f"{key}={value}"])
    if config is not None:
        section, _, name = key.partition(".")
        found = getattr(getattr(config, section), name)
        assert found == value.strip() or _agrees(found, yaml.load(value.strip(), yaml.BaseLoader) or ""), (key, value)
