"""Hostile, damaged and foreign files: refused in one line, nothing executed, memory bounded."""

import functools
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoints.saved_files import CONTAINERS, archive_of, legacy_bytes, records, with_pickle, zip_bytes

from ms_unireid.checkpoints.formats import pickle_interpreter
from ms_unireid.checkpoints.formats.any_file import read_folder
from ms_unireid.checkpoints.formats.safetensors_file import read_safetensors
from ms_unireid.checkpoints.formats.torch_reader import read_torch
from ms_unireid.errors import CheckpointError

LAYOUT = b"K\x00K\x04\x85q\x08K\x01\x85q\t"  # Offset 0, shape (4,), strides (1,), as torch.save writes them.
MEBIBYTE = 1 << 20


def reader_of(container: str):
    return read_safetensors if container == "safetensors" else read_torch


def refusal(path: Path, content: bytes, read=read_torch) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 400
    return message


@functools.cache
def container(name: str) -> bytes:
    return CONTAINERS[name]()


def plain() -> bytes:
    return zip_bytes({"x": torch.arange(4, dtype=torch.float32)})


def global_(name: str) -> bytes:
    module, attribute = name.rsplit(".", 1)
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Return pickles that would create the canary file, and the name that each is refused by."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    stack_global = b"\x80\x04" + text("posix") + text("system") + b"\x93" + text(touch) + b"\x85R."
    nested = Runs(map, Runs(eval, "open"), [str(canary)])
    getattr_chain = Runs(getattr, Runs(__import__, "os"), "system")
    hidden_factory = global_("collections.defaultdict") + global_("posix.system") + b"\x85R."
    script_class = global_("__torch__.os.system") + text(touch) + b"\x85R."
    through_state = global_("torch.nn.parameter.Parameter") + b")\x81}" + text("__setstate__") + b"Nsb."
    instance = b"(" + text(touch) + b"ios\nsystem\n."
    object_ = b"(" + global_("os.system") + text(touch) + b"o."
    extension = b"\x80\x02\x82\x01."
    return {
        "os.system": (pickle.dumps({"x": Runs(os.system, touch)}, 2), "'posix.system'"),
        "eval": (pickle.dumps(Runs(eval, code), 2), "'__builtin__.eval'"),
        "eval in protocol 4": (pickle.dumps(Runs(eval, code), 4), "'builtins.eval'"),
        "nested": (pickle.dumps(nested, 2), "'itertools.imap'"),
        "getattr": (pickle.dumps(getattr_chain, 2), "'__builtin__.getattr'"),
        "stack global": (stack_global, "'posix.system'"),
        "factory": (hidden_factory, "'posix.system'"),
        "script class": (script_class, "'__torch__.os.system'"),
        "state": (through_state, "wrong arguments for 'torch.nn.parameter.Parameter'"),
        "instance": (instance, "operation INST"),
        "object": (object_, "'os.system'"),
        "extension": (extension, "operation EXT1"),
        "dotted": (global_("torch._utils.os.system") + b".", "'torch._utils.os.system'"),
        "numpy": (global_("numpy.core.multiarray._reconstruct") + b".", "'numpy.core.multiarray._reconstruct'"),
        "torch load": (global_("torch.storage._load_from_bytes") + b".", "'torch.storage._load_from_bytes'"),
        "fake tensor": (global_("torch.FloatTensor") + b")R.", "'torch.FloatTensor'"),
        "ugly name": (b"ca\rb\x1b[2J\nc\n.", r"'a\rb\x1b[2J.c'"),
        "call of a type": (global_("torch.float32") + b")R.", "cannot be called"),
        "call of a number": (b"K\x01)R.", "cannot be called"),
        "arguments no tuple": (global_("torch.Size") + b"]R.", "cannot be called"),
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_no_call_in_a_pickle_is_run(tmp_path, name):
    canary = tmp_path / "canary"
    pickled, words = attacks(canary)[name]
    assert words in refusal(tmp_path / "zip.pt", with_pickle(plain(), pickled))
    assert words in refusal(tmp_path / "legacy.pt", as_legacy(pickled))
    assert not canary.exists()


def test_the_attack_works_on_pickle_itself(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(attacks(canary)["os.system"][0])
    assert canary.exists()


def test_a_class_of_torchscript_is_never_looked_up(tmp_path):
    canary = tmp_path / "canary"
    pickled = attacks(canary)["script class"][0]
    refusal(tmp_path / "x.pt", with_pickle(container("script"), pickled))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (b"K\x00K\x05\x85q\x08K\x01\x85q\t", "tensor 'x' reaches element 4 of a storage of 16 bytes"),
        (b"K\x01K\x04\x85q\x08K\x01\x85q\t", "tensor 'x' reaches element 4 of"),
        (b"K\x00K\x04\x85q\x08K\x02\x85q\t", "tensor 'x' reaches element 6 of"),
        (b"K\x00K\x04\x85q\x08J\xff\xff\xff\xff\x85q\t", "negative or impossible"),
        (b"J\xff\xff\xff\xffK\x04\x85q\x08K\x01\x85q\t", "negative or impossible"),
        (b"K\x00J\xff\xff\xff\xff\x85q\x08K\x01\x85q\t", "negative or impossible"),
        (b"K\x00\x8a\x09" + bytes(8) + b"\x01\x85q\x08K\x01\x85q\t", "negative or impossible"),
        (b"K\x00\x8a\x07" + bytes(6) + b"\x01\x85q\x08K\x01\x85q\t", "reaches element"),
        (b"K\x00\x8a\x07" + bytes(6) + b"\x01\x85q\x08K\x00\x85q\t", "repeats its storage too often"),
        (b"K\x00\x88\x85q\x08K\x01\x85q\t", "negative or impossible"),
        (b"K\x00G" + bytes(8) + b"\x85q\x08K\x01\x85q\t", "negative or impossible"),
        (b"K\x00K\x04\x85q\x08)q\t", "no valid shape"),
        (b"K\x00]q\x08K\x01\x85q\t", "no valid shape"),
        (b"K\x00(" + b"K\x01" * 33 + b"tq\x08(" + b"K\x01" * 33 + b"tq\t", "33 dimensions"),
        (b"K\x00K\x00\x8a\x07" + bytes(6) + b"\x01\x86q\x08K\x01K\x01\x86q\t", "impossible sizes"),
    ],
)
def test_tensors_that_leave_their_storage(tmp_path, layout, words):
    pickled = records(plain())["archive/data.pkl"]
    assert LAYOUT in pickled
    assert words in refusal(tmp_path / "x.pt", with_pickle(plain(), pickled.replace(LAYOUT, layout)))
    saved = legacy_bytes({"x": torch.arange(4, dtype=torch.float32)})
    assert LAYOUT in saved
    assert words in refusal(tmp_path / "legacy.pt", saved.replace(LAYOUT, layout))


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (b"M\xff\xffK\x00\x85q\x08K\x01\x85q\t", (0,)),
        (b"K\x03K\x01\x85q\x08\x8a\x08" + b"\xff" * 7 + b"\x0f\x85q\t", (1,)),
    ],
)
def test_layouts_that_are_odd_but_harmless(tmp_path, layout, shape):
    pickled = records(plain())["archive/data.pkl"].replace(LAYOUT, layout)
    (tmp_path / "x.pt").write_bytes(with_pickle(plain(), pickled))
    found = read_torch(tmp_path / "x.pt").tensors["x"]
    assert found.shape == shape and found.tolist() == [3.0][: shape[0]]


def test_a_storage_longer_than_its_record(tmp_path):
    pickled = records(plain())["archive/data.pkl"]
    longer = pickled.replace(b"K\x04tq\x07Q", b"M\x00\x01tq\x07Q")
    assert longer != pickled
    message = refusal(tmp_path / "x.pt", with_pickle(plain(), longer))
    assert "tensor 'x' takes 1024 bytes of a storage of 16" in message


@pytest.mark.parametrize(
    "reference", [b"N", b"K\x01", b")", text("storage") + b"\x85", b"(" + text("module") + b"NNNNt", b"(NNNNNt"]
)
def test_references_to_no_storage(tmp_path, reference):
    assert "is damaged: a reference to" in refusal(tmp_path / "x.pt", with_pickle(plain(), reference + b"Q."))


def test_tensors_without_a_storage(tmp_path):
    for storage in (b"N", b"}", b"K\x01", global_("torch.FloatStorage")):
        pickled = b"}" + text("x") + global_("torch._utils._rebuild_tensor") + b"(" + storage + LAYOUT + b"tRs."
        assert "a tensor without a storage" in refusal(tmp_path / "x.pt", with_pickle(plain(), pickled))


def as_legacy(pickled: bytes) -> bytes:
    """Return a legacy file whose object pickle is another one."""
    content = legacy_bytes({})
    return content[: content.index(b"\x80\x02}q\x00.")] + pickled + b"\x80\x02]q\x00."


def test_legacy_storages_with_false_entries(tmp_path):
    saved = legacy_bytes({"x": torch.arange(4, dtype=torch.float32)})
    negative = saved[:-24] + struct.pack("<q", -1) + saved[-16:]
    assert "has -1 elements" in refusal(tmp_path / "x.pt", negative)
    kinds = (global_("torch.FloatStorage"), global_("torch.DoubleStorage"))
    two = b"".join(b"(" + text("storage") + kind + text("0") + text("cpu") + b"K\x04NtQ" for kind in kinds)
    assert "two element types" in refusal(tmp_path / "x.pt", as_legacy(b"](" + two + b"e."))


def test_a_missing_record(tmp_path):
    rest = {name: data for name, data in records(plain()).items() if not name.endswith("data/0")}
    assert "has no record 'data/0'" in refusal(tmp_path / "x.pt", archive_of(rest))


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    content = records(plain())
    content["archive/data/0"] = bytes(64 * MEBIBYTE)
    bomb = archive_of(content, zipfile.ZIP_DEFLATED)
    peak = peak_of(lambda: refusal(tmp_path / "x.pt", bomb))
    assert "the compressed record 'byteorder'" in refusal(tmp_path / "x.pt", bomb) and peak < MEBIBYTE


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/x",
        "archive/../../x",
        "archive/./x",
        "archive//x",
        "C:/x",
        "archive\\x",
        "archive/..\\x",
        "archive/..",
    ],
)
def test_record_names_that_leave_the_archive(tmp_path, name):
    message = refusal(tmp_path / "x.pt", archive_of({**records(plain()), name: b"x"}))
    assert "whose name leaves the archive" in message
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def test_record_names_that_are_no_utf_8(tmp_path):
    content = plain().replace(b"archive/version", b"archive/versi\xffn")
    assert r"whose name b'archive/versi\xffn' is no UTF-8" in refusal(tmp_path / "x.pt", content)


def test_several_folders_and_records_outside(tmp_path):
    assert "folders 'archive' and 'b'" in refusal(tmp_path / "x.pt", archive_of({**records(plain()), "b/x": b""}))
    assert "outside of a folder" in refusal(tmp_path / "x.pt", archive_of({**records(plain()), "x": b""}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_records(tmp_path):
    file = io.BytesIO(plain())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data/0", bytes(16))
    assert "has the record 'data/0' twice" in refusal(tmp_path / "x.pt", file.getvalue())


def central(content: bytes, record: bytes) -> int:
    """Return where a record's entry in the central directory starts."""
    return content.rindex(record) - 46


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (8, struct.pack("<H", 1), "encrypted record 'data/0'"),
        (10, struct.pack("<H", 99), "compressed record 'data/0'"),
        (20, struct.pack("<L", 15), "compressed record 'data/0'"),
        (20, struct.pack("<2L", 1 << 30, 1 << 30), "records that overlap or reach outside"),
        (20, struct.pack("<2L", 700, 700), "records that overlap or reach outside"),
        (20, struct.pack("<2L", 0xFFFFFFFF, 0xFFFFFFFF), "zip directory is inconsistent"),
        (16, struct.pack("<L", 1), "the checksum of record 'data/0' does not fit"),
        (42, struct.pack("<L", 0xFFFFFFF0), "records that overlap or reach outside"),
        (42, struct.pack("<L", 1), "records that overlap or reach outside"),
        (42, struct.pack("<L", 0), "records that overlap or reach outside"),
        (0, b"PK\x09\x09", "zip directory is inconsistent"),
        (28, struct.pack("<H", 0xFFFF), "zip directory is inconsistent"),
    ],
)
def test_directories_with_false_entries(tmp_path, place, value, words):
    content = bytearray(plain())
    start = central(plain(), b"archive/data/0") + place
    content[start : start + len(value)] = value
    assert words in refusal(tmp_path / "x.pt", bytes(content))


def test_a_directory_with_fewer_entries_than_it_holds(tmp_path):
    content = bytearray(archive_of(records(plain())))
    content[-12] -= 1
    assert "zip directory is inconsistent" in refusal(tmp_path / "x.pt", bytes(content))


def widened(content: bytes, name: bytes) -> bytes:
    """Return an archive of which one entry has its sizes and offset in a zip64 field, as beyond 4 GiB."""
    start = central(content, name)
    stored_size, size, header = (
        *struct.unpack_from("<2L", content, start + 20),
        *struct.unpack_from("<L", content, start + 42),
    )
    extra = struct.pack("<2H3Q", 1, 24, size, stored_size, header)
    entry = bytearray(content[start : start + 46])
    entry[20:28] = b"\xff" * 8
    entry[30:32] = struct.pack("<H", len(extra))
    entry[42:46] = b"\xff" * 4
    end = bytearray(content[-22:])
    end[12:16] = struct.pack("<L", struct.unpack_from("<L", end, 12)[0] + len(extra))
    return content[:start] + bytes(entry) + name + extra + content[start + 46 + len(name) : -22] + bytes(end)


def test_archives_in_zip64(tmp_path):
    path = tmp_path / "x.pt"
    assert b"PK\x06\x06" in plain()
    for content in (plain(), widened(archive_of(records(plain())), b"archive/data/0")):
        path.write_bytes(content)
        assert read_torch(path).tensors["x"].tolist() == [0, 1, 2, 3]
    for field in (content.rindex(struct.pack("<2HQ", 1, 24, 16)) + shift for shift in (0, 4, 12, 20)):
        damaged = bytearray(content)
        damaged[field + 5] ^= 1
        damaged[field] ^= 1
        refusal(path, bytes(damaged))


def peak_of(action) -> int:
    """Return the most bytes that Python had allocated at a time while an action ran."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


DEEP = 50_000
BOMBS = {
    "memo slot": (b"}r\xff\xff\xff\xff" + text("x") + b"Ns.", None),
    "long text": (b"\x8d" + struct.pack("<Q", 1 << 62) + b"x.", "ends before"),
    "long bytes": (b"B" + struct.pack("<I", 0xFFFFFFFF) + b"x.", "ends before"),
    "negative length": (b"T" + struct.pack("<i", -1) + b".", "no valid operation"),
    "long frame": (b"\x95" + b"\xff" * 8 + b"}.", None),
    "long number": (b"\x8b" + struct.pack("<I", 1 << 30) + b".", "ends before"),
    "number of many digits": (b"I" + b"9" * 100_000 + b"\n.", "no valid operation"),
    "number as text": (b"L9L\n.", "operation LONG"),
    "name without end": (b"c" + b"x" * 5000, "no valid operation"),
    "tuples in tuples": (b")" + b"\x85" * DEEP + b".", "nested too deeply"),
    "lists in lists": (b"]" * DEEP + b"a" * (DEEP - 1) + b".", "nested too deeply"),
    "tuples as a key": (b"})" + b"\x85" * DEEP + b"Ns.", "key is a tuple"),
    "a list as a key": (b"}]Ns.", "key is a list"),
    "a dictionary as a key": (b"}}Ns.", "key is a dict"),
    "a long key": (b"}" + text("k" * 2000) + b"Ns.", "more than 1000 characters"),
    "a list in itself": (b"]q\x00h\x00a.", "contains itself"),
    "a dictionary in itself": (b"}q\x00" + text("") + b"h\x00s.", "contains itself"),
    "many marks": (b"(" * 100_000 + b".", "without its operand"),
    "laughs": (
        b"]q\x00" + b"".join(b"](" + b"h%c" % level * 10 + b"eq%c" % (level + 1) for level in range(40)) + b".",
        "holds more than 50000 items",
    ),
    "one list as many dictionaries": (
        b"(" + b"](" + b"".join(text(f"{i}") + b"N\x86" for i in range(20_000)) + b"e\x85q\x00"
        + (global_("collections.OrderedDict") + b"h\x00R") * 2_000 + b"t.",
        "describes more than 200000 items",
    ),
    "one tuple as many dictionaries": (
        b"(" + b"(" + b"".join(text(f"{i}") + b"N\x86" for i in range(20_000)) + b"t\x85q\x00"
        + (global_("collections.OrderedDict") + b"h\x00R") * 2_000 + b"t.",
        "describes more than 200000 items",
    ),
    "many arguments": (
        b"(" + b"N" * 100_000 + b"tq\x00(" + (global_("torch.Size") + b"h\x00R") * 2_000 + b"t.",
        "a call with 100000 arguments",
    ),
    "many calls with a long argument": (
        b"(" + b"N" * 100_000 + b"tq\x00(" + (global_("torch.Size") + b"h\x00\x85R") * 2_000 + b"t.",
        "describes more than 200000 items",
    ),
    "long names": (
        text("x" * 600) + b"q\x00" + (b"h\x00h\x00\x93" * 10_000) + b".", "a name of impossible length"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_little_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(pickle_interpreter, "MAX_OPERATIONS", 200_000)  # counting memory makes each of them slow
    pickled, words = BOMBS[name]
    path = tmp_path / "x.pt"
    path.write_bytes(with_pickle(plain(), pickled))

    def read():
        if words is None:
            read_torch(path)
        else:
            with pytest.raises(CheckpointError, match=words):
                read_torch(path)

    assert peak_of(read) < 40 * MEBIBYTE


def test_depth_and_names_have_a_limit(tmp_path):
    for levels, refused in ((90, False), (150, True)):
        content = with_pickle(plain(), b"]" * levels + b"Na" + b"a" * (levels - 1) + b".")
        (tmp_path / "x.pt").write_bytes(content)
        assert opens(tmp_path / "x.pt", read_torch) is not refused
    assert "nested too deeply" in refusal(tmp_path / "x.pt", zip_bytes({"k" * 500: 1}))
    long = b"}" + text("k") + text("x" * (1 << 24) + "x") + b"s."
    assert "holds a text of 16777217 bytes" in refusal(tmp_path / "x.pt", with_pickle(plain(), long))


def test_more_operations_than_any_state_dict(tmp_path):
    content = with_pickle(plain(), b"]q\x00" + b"0" * 3)
    assert "operation POP" in refusal(tmp_path / "x.pt", content)
    content = with_pickle(plain(), b"N" * 1_000_001 + b".")
    assert "more than 1000000 items" in refusal(tmp_path / "x.pt", content)


@pytest.mark.parametrize(
    "pickled",
    [
        *(b".", b"0.", b"\x85.", b"a.", b"]a.", b"NNa.", b"e.", b"(Ne.", b"Ne.", b"u.", b"}(Nu.", b"(NNu.", b"t."),
        *(b"h\x07.", b"q\x00.", b"\x94.", b"R.", b"NR.", b"b.", b"Nb.", b"NNb.", b"Q.", b"\x93.", b"NN\x93.", b"s."),
        *(b"NNNs.", b"", b"\xff", b"cx\n", b"c\xff\n\xff\n.", b"X\x01\x00\x00\x00\xff.", b"](N", b"G\x00."),
    ],
)
def test_meaningless_streams(tmp_path, pickled):
    message = refusal(tmp_path / "x.pt", with_pickle(plain(), pickled))
    assert "is damaged: its pickle has" in message or "ends before" in message or "operation POP" in message


@pytest.mark.parametrize("name", CONTAINERS)
def test_truncated_at_fifty_places(tmp_path, name):
    content = container(name)
    path = tmp_path / "x.pt"
    for cut in sorted({*range(1, 12), *(len(content) * i // 40 for i in range(1, 40)), len(content) - 1}):
        message = refusal(path, content[:cut], reader_of(name))
        assert "ends before" in message or (name == "safetensors" and cut < 9), (cut, message)


FOREIGN = {
    b"": "is an empty file",
    b"<!DOCTYPE html><html><body>404</body></html>": "is a web page",
    b"\n  <html lang=en>": "is a web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n": "is only a git-LFS pointer",
    b"\x1f\x8b\x08\x00": "is packed with gzip",
    b"\0" * 257 + b"ustar  \0": "is a tar archive",
    b"\0" * 999: "is not a checkpoint of a known format",
    b"\x80\x02}q\x00.": "is not a checkpoint of a known format",
    b"not a checkpoint": "is not a checkpoint of a known format",
    b"PK\x03\x04 a zip": "ends before the directory of a zip archive",
    b"PK\x05\x06" + bytes(18): "is not a checkpoint of a known format",
}


@pytest.mark.parametrize(("content", "words"), FOREIGN.items())
def test_files_in_disguise(tmp_path, content, words):
    assert words in refusal(tmp_path / "x.pt", content)


def test_the_folder_names_the_file_in_disguise(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"<!doctype html>")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is a web page"):
        read_folder(tmp_path)


def test_other_zip_archives(tmp_path):
    assert "without data.pkl" in refusal(tmp_path / "x.pt", archive_of({"word/document.xml": b""}))
    second_disk = bytearray(plain())
    second_disk[second_disk.rindex(b"PK\x06\x06") + 16] = 1
    assert "zip directory is inconsistent" in refusal(tmp_path / "x.pt", bytes(second_disk))
    assert "bytes after the end of the zip archive" in refusal(tmp_path / "x.pt", plain() + b"more")


def test_a_wrong_magic_and_protocol(tmp_path):
    content = legacy_bytes({})
    assert "unknown format" in refusal(tmp_path / "x.pt", content.replace(b"M\xe9\x03.", b"M\xea\x03."))
    assert "known format" in refusal(tmp_path / "x.pt", content.replace(b"\x8a\nl", b"\x8a\nm", 1))


@pytest.mark.parametrize("path", ["none.pt", "."])
def test_missing_files_and_folders(tmp_path, path):
    for read in (read_torch, read_safetensors):
        with pytest.raises(CheckpointError, match=r"no such file|is a folder"):
            read(tmp_path / path)


def opens(path: Path, read) -> bool:
    """Tell whether a file can be read; if so, its tensors are readable to the last element."""
    try:
        opened = read(path)
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return False
    for array in opened.tensors.values():
        if array.size:
            array[tuple(size - 1 for size in array.shape)].tobytes()
    return True
