"""CLIP's byte-pair tokenizer, written slowly and literally from the vocabulary table."""

import gzip
import html
from itertools import pairwise
from pathlib import Path

import ftfy
import numpy as np
import regex

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def byte_characters() -> dict[int, str]:
    """Map each byte to a printable character, in vocabulary order: visible Latin-1 to itself, the rest to 256 + n."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    table = {byte: chr(byte) for byte in visible}
    table.update({byte: chr(256 + n) for n, byte in enumerate(hidden)})
    return table


def clean(text: str) -> str:
    """Repair the encoding, unescape HTML twice, collapse white space and lower the case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


class Tokenizer:
    """Text to OpenAI CLIP ids; `jekyll</w>` is 49405, the start 49406 and the end 49407.

    A smaller vocabulary has fewer merges; its last two ids are the start and the end.

    Args:
        path: The table `bpe_simple_vocab_16e6.txt.gz`.
        vocabulary_size: Number of ids.
    """

    def __init__(self, path: str | Path, vocabulary_size: int = 49408):
        lines = gzip.decompress(Path(path).read_bytes()).decode("utf-8").split("\n")
        merges = [tuple(line.split()) for line in lines[1 : vocabulary_size - 513]]
        self.bytes = byte_characters()
        characters = list(self.bytes.values())
        pieces = characters + [c + WORD_END for c in characters] + ["".join(pair) for pair in merges] + [START, END]
        self.ids = {piece: number for number, piece in enumerate(pieces)}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        alternatives = [regex.escape(START), regex.escape(END), *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")]
        alternatives += [r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]+"]
        self.pattern = regex.compile("|".join(alternatives), regex.IGNORECASE)

    def split_word(self, word: str) -> list[str]:
        """Merge a word's characters, always the best-ranked neighbouring pair first, at every place it occurs."""
        pieces = [*word[:-1], word[-1] + WORD_END]
        while True:
            known = [pair for pair in pairwise(pieces) if pair in self.ranks]
            if not known:
                return pieces
            best = min(known, key=self.ranks.__getitem__)
            merged, i = [], 0
            while i < len(pieces):
                paired = tuple(pieces[i : i + 2]) == best
                merged.append("".join(best) if paired else pieces[i])
                i += 2 if paired else 1
            pieces = merged

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without start, end or padding; literal special strings become special ids."""
        ids = []
        for word in self.pattern.findall(clean(text)):
            if word in (START, END):
                ids.append(self.ids[word])
                continue
            mapped = "".join(self.bytes[byte] for byte in word.encode("utf-8"))
            ids += [self.ids[piece] for piece in self.split_word(mapped)]
        return ids

    def __call__(self, texts: str | list[str], context_length: int = 77) -> np.ndarray:
        """Tokenize captions.

        Args:
            texts: One caption or a list of N.
            context_length: Number L of ids of a row.

        Returns:
            int64 (N, L) ([1, L] for one caption): start, ids, end, zeros; a row too long is cut to L and ends with end.
        """
        texts = [texts] if isinstance(texts, str) else texts
        table = np.zeros((len(texts), context_length), dtype=np.int64)
        for row, text in zip(table, texts, strict=True):
            ids = [self.ids[START], *self.encode(text), self.ids[END]]
            if len(ids) > context_length:
                ids = [*ids[: context_length - 1], self.ids[END]]
            row[: len(ids)] = ids
        return table
