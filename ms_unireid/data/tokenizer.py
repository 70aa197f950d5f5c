"""Captions to token ids: the byte-pair encoding of CLIP, on the `tokenizers` library.

The merge table beside this file and all ids are OpenAI's (MIT licence, github.com/openai/CLIP). The authors of UNIReID
replace the last entry, `jekyll</w>`, by an unused mask token; here it stays.
"""

import gzip
import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import ftfy
import numpy as np
import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from ms_unireid.config_schema import CONTEXT_LENGTH, VOCABULARY_SIZE, ModelConfig
from ms_unireid.data.transforms import BETWEEN_CLAUSES
from ms_unireid.errors import DataError

VOCABULARY = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
START, END = "<|startoftext|>", "<|endoftext|>"

_BYTES = 2 * 256  # a byte within a word, and at its end
_SPECIAL = 2
_END_OF_WORD = "</w>"
_SHOWN_WORDS, _SHOWN_CHARACTERS = 5, 60
# OpenAI's pattern ignores case. The text is already in lower case here, so only the long s must be named: it is in
# lower case too, and equals s when case is ignored.
_PIECES = (
    r"<\|[s\u017f]tartoftext\|>|<\|endoftext\|>|'[s\u017f]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
).replace(r"\u017f", "\u017f")
# A sentence may end without a blank behind it. What ends in fewer than three letters may be "mr." or the 1. of a list.
_SENTENCES = re.compile(r"(?<=\w{3}[.!?])\s|(?<=[a-z]{3}[.!?])(?=[a-z]{3})|(?<=[。！？])")
_BORDERS = (_SENTENCES, BETWEEN_CLAUSES, re.compile(r"\s"))


@dataclass(frozen=True)
class Pieces:
    """The rows that captions are encoded as: one each, and of a caption that is split several, in its order."""

    token_ids: np.ndarray  # (P, L) int32
    captions: np.ndarray  # (P,) which caption each row is of, ascending
    long: np.ndarray  # (N,) bool: which captions are longer than a row

    def average(self, feats: np.ndarray) -> np.ndarray:
        """Return the mean of the rows' un-normalised features (P, D) for each caption, (N, D); of one row, itself."""
        if len(self.token_ids) == len(self.long):
            return feats
        counts = np.bincount(self.captions)
        return np.add.reduceat(feats, np.cumsum(counts) - counts) / counts[:, None].astype(feats.dtype)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a row of each caption, all equally likely: token ids (N, L) int32."""
        if len(self.token_ids) == len(self.long):
            return self.token_ids
        counts = np.bincount(self.captions)
        return self.token_ids[np.cumsum(counts) - counts + (rng.random(len(counts)) * counts).astype(int)]


class Tokenizer:
    """Turns captions into rows of `context_length` token ids; at least 2, for the start and the end token.

    A `vocabulary_size` below CLIP's leaves out the rarest merges: rare words become several tokens. The last two ids
    are the start and the end token. `split` is the rule of `pieces` for longer captions.
    """

    def __init__(
        self, context_length: int = CONTEXT_LENGTH, vocabulary_size: int = VOCABULARY_SIZE, split: bool = False
    ) -> None:
        if context_length < 2:
            raise ValueError(f"context_length must be at least 2 (start and end token), got {context_length}")
        if vocabulary_size <= _BYTES + _SPECIAL:
            raise ValueError(
                f"vocabulary_size must be at least 515: bytes, a merge, start and end; got {vocabulary_size}"
            )
        self.context_length, self.split = context_length, split
        self.vocabulary_size = vocabulary_size = min(vocabulary_size, VOCABULARY_SIZE)
        self.start_token, self.end_token = vocabulary_size - 2, vocabulary_size - 1
        self._bpe = _bpe(vocabulary_size)  # a damaged vocabulary is reported here, not in the middle of a run

    @classmethod
    def of(cls, model: ModelConfig, long_captions: str = "cut") -> "Tokenizer":
        """Return the tokenizer that a model is trained with; `long_captions` is the rule of `DataConfig`."""
        return cls(model.context_length, model.sizes.vocabulary_size, long_captions == "split")

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Return the token ids of one caption or several, int32 (N, context_length): start, caption, end, zeros.

        A caption that is too long is cut; its last id is the end token.
        """
        return self._rows([self._ids(_clean(text)) for text in ([texts] if isinstance(texts, str) else texts)])

    def pieces(self, texts: Sequence[str]) -> Pieces:
        """Return the rows that captions are encoded as. Too long ones are cut as by a call, or split if `split`.

        They are split at the ends of their sentences. A sentence that is too long itself is split between clauses, and
        then between words, into pieces that hold as much as fits.
        """
        room = self.context_length - 2
        rows, counts, long = [], [], []
        for text in map(_clean, texts):
            ids = self._ids(text)
            long.append(len(ids) > room)
            found = self._split(text, ids, _BORDERS) if self.split and room else [ids]
            rows += found
            counts.append(len(found))
        return Pieces(self._rows(rows), np.repeat(np.arange(len(counts)), np.array(counts, int)), np.array(long, bool))

    def _split(self, text: str, ids: list[int], borders: Sequence[re.Pattern]) -> list[list[int]]:
        """Split a clean text, whose ids are given, into ids that fit a row."""
        room = self.context_length - 2
        if len(ids) <= room:
            return [ids]
        if not borders:
            return [ids[start : start + room] for start in range(0, len(ids), room)]
        parts = [(part, self._ids(part)) for part in borders[0].split(text)]
        found = [piece for part in parts if part[1] for piece in self._split(*part, borders[1:])]
        return found if borders == _BORDERS else _joined(found, room)

    def _ids(self, text: str) -> list[int]:
        return _encode(self._bpe, text)

    def _rows(self, captions: Sequence[list[int]]) -> np.ndarray:
        rows = np.zeros((len(captions), self.context_length), dtype=np.int32)
        for row, ids in zip(rows, captions, strict=True):
            ids = [self.start_token, *ids[: self.context_length - 2], self.end_token]
            row[: len(ids)] = ids
        return rows

    def lengths(self, texts: Iterable[str]) -> list[int]:
        """Return each caption's number of ids before the cut, start and end token included."""
        return [len(self._ids(_clean(text))) + 2 for text in texts]

    def notes(self, text: str) -> list[str]:
        """Say what the model does not get of a text: all at once, what is cut off, and words in no Latin letters."""
        found = []
        pieces = self.pieces([text])
        if len(pieces.token_ids) > 1:
            found.append(
                f"The description is too long for the model, which reads {self.context_length - 2} tokens at once: its "
                f"{len(pieces.token_ids)} parts are read one by one, and searched together."
            )
        elif pieces.long[0]:
            last = " ".join(self.decode(self([text])[0]).split()[-_SHOWN_WORDS:])
            found.append(
                f"The description is too long for the model, which reads the first {self.context_length - 2} tokens, "
                f"up to “… {last[-_SHOWN_CHARACTERS:]}”."
            )
        if unknown := _unknown(_clean(text)):
            found.append(f"The model has learned from English and does not know “{unknown[:_SHOWN_CHARACTERS]}”.")
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of one row of ids, cleaned and in lower case; an unknown id raises a ValueError."""
        words = []
        for token in (int(token) for token in ids):
            if token == self.end_token:
                break
            if not 0 <= token < self.vocabulary_size:
                raise ValueError(f"token id {token} is outside 0..{self.vocabulary_size - 1}")
            if token != self.start_token:
                words.append(self._bpe.id_to_token(token))
        to_byte = {character: byte for byte, character in _byte_characters().items()}
        text = bytearray()
        for word in words:
            text += bytes(to_byte[character] for character in word.removesuffix(_END_OF_WORD))
            text += b" " if word.endswith(_END_OF_WORD) else b""
        return text.decode("utf-8", errors="replace").strip()


def read_merges(path: Path = VOCABULARY) -> list[tuple[str, str]]:
    """Read the merge table `bpe_simple_vocab_16e6.txt.gz`: the 48,894 merges that CLIP uses, most frequent first.

    A file that is missing or not the published one raises a DataError.
    """
    fix = "Fix: install ms_unireid again, or copy the file from the folder clip/ of github.com/openai/CLIP."
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the tokenizer's vocabulary cannot be read ({error.strerror}). {fix}") from error
    found = hashlib.sha256(packed).hexdigest()
    if found != VOCABULARY_SHA256:
        raise DataError(
            f"{path}: the tokenizer's vocabulary is damaged: sha256 {found}, expected {VOCABULARY_SHA256}. {fix}"
        )
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1:]  # line 0 is a version note
    merges = VOCABULARY_SIZE - _BYTES - _SPECIAL  # CLIP uses the beginning of the published table
    return [(left, right) for left, right in (line.split() for line in lines[:merges])]


def _byte_characters() -> dict[int, str]:
    """Map each byte to the visible character that stands for it in the table, in the order of the ids."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    hidden = sorted(set(range(256)) - set(visible))
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}


@lru_cache(maxsize=2)
def _bpe(vocabulary_size: int) -> tokenizers.Tokenizer:
    merges = read_merges()[: vocabulary_size - _BYTES - _SPECIAL]
    characters = list(_byte_characters().values())
    entries = [*characters, *(character + _END_OF_WORD for character in characters)]
    entries += ["".join(pair) for pair in merges] + [START, END]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    bpe = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=_END_OF_WORD))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return bpe


def _clean(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a caption must be a string, got {type(text).__name__}: {text!r:.80}")
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _joined(pieces: Sequence[list[int]], room: int) -> list[list[int]]:
    """Join neighbours as far as they fit."""
    joined: list[list[int]] = []
    for piece in pieces:
        if joined and len(joined[-1]) + len(piece) <= room:
            joined[-1] = joined[-1] + piece
        else:
            joined.append(piece)
    return joined


def _unknown(text: str) -> str:
    """Return the words with letters that are not Latin; the whole text if it has no Latin letter at all."""

    def is_latin(letter: str) -> bool:
        return unicodedata.name(letter, "").startswith("LATIN")

    if not any(map(is_latin, text)):
        return text
    return " ".join(word for word in text.split() if any(c.isalpha() and not is_latin(c) for c in word))


def _encode(bpe: tokenizers.Tokenizer, text: str) -> list[int]:
    if START not in text and END not in text:
        return bpe.encode(text, add_special_tokens=False).ids
    # The library finds a special token anywhere. OpenAI's pattern finds it only at the start of a piece (there is none
    # in "a!<|endoftext|>"), so each piece is encoded separately.
    ids = []
    for piece, _ in bpe.pre_tokenizer.pre_tokenize_str(text):
        special = bpe.token_to_id(piece) if piece in (START, END) else None
        ids += [special] if special is not None else [token.id for token in bpe.model.tokenize(piece)]
    return ids
