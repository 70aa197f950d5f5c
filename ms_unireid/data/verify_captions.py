"""Captions of a data set: too long for the model, or shared by several persons."""

from collections.abc import Iterable

from ms_unireid.data.data_findings import DataFinding, finding
from ms_unireid.data.tokenizer import Tokenizer


def examine_captions(captions: Iterable[tuple[int, str]]) -> list[DataFinding]:
    """Look at captions that are known not to be blank.

    Args:
        captions: Person and caption, raw.

    Returns:
        A finding about their length, and one about those that several persons have; nothing if there are none.
    """
    persons: dict[str, set[int]] = {}
    rows = list(captions)
    for person, caption in rows:
        persons.setdefault(caption, set()).add(person)
    if not rows:
        return []
    shared = [caption for caption, owners in persons.items() if len(owners) > 1]
    found = [_examine_lengths([caption for _, caption in rows])]
    if shared:  # the published data sets have some: nothing to mend
        detail = f"captions that several persons share: {len(shared):,}, for information"
        found.append(finding("captions", "ok", detail, "", [repr(caption[:60]) for caption in shared]))
    return found


def _examine_lengths(texts: list[str]) -> DataFinding:
    tokenizer = Tokenizer()
    lengths = tokenizer.lengths(texts)
    long = [text for text, length in zip(texts, lengths, strict=True) if length > tokenizer.context_length]
    detail = f"{len(texts):,} captions, the longest has {max(lengths)} tokens"
    if not long:
        return DataFinding("captions", "ok", detail)
    detail += f"; longer than {tokenizer.context_length} and cut there: {len(long)}"
    return finding("captions", "warning", detail, "", [repr(text[:60]) for text in long], "shorten them, or leave them")
