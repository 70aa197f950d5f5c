"""English captions of a synthetic person, varied in wording. Each is true and mentions a part of the attributes.

Captions name colours and kinds of things, and of a pattern only its family ("striped"). Only sketches and photos show
the direction of stripes, the shape of a logo and the cut of clothes.
"""

from __future__ import annotations

import re

import numpy as np

from ms_unireid.apps.synthetic.person import LOGOS, Person

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "golden"),
    "green": ("green",),
    "light blue": ("light blue", "sky blue"),
    "navy": ("navy", "dark blue"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink",),
    "brown": ("brown", "brown", "chestnut"),
    "black": ("black",),
    "white": ("white",),
    "grey": ("grey", "gray"),
    "blond": ("blond", "fair"),
    "ginger": ("ginger",),
}
SUBJECTS = {"man": ("man", "man", "guy", "gentleman", "person"), "woman": ("woman", "woman", "lady", "girl", "person")}
PRONOUNS = {"man": "he", "woman": "she"}
HAIR_WORDS = {
    "short": ("short", "cropped"),
    "spiky": ("short", "spiky"),
    "bob": ("shoulder-length", "chin-length"),
    "long": ("long", "long", "flowing"),
    "ponytail": ("tied", "tied back"),
    "bun": ("tied", "pinned-up"),
    "curly": ("curly", "frizzy"),
}
NOUNS = {
    "t-shirt": ("t-shirt", "short-sleeved shirt", "tee"),
    "tank top": ("tank top", "sleeveless top"),
    "sweater": ("sweater", "pullover", "jumper"),
    "jacket": ("jacket", "zipped jacket"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "poncho": ("poncho", "cape"),
    "coat": ("coat", "long coat", "overcoat"),
    "dress": ("dress", "frock"),
    "jeans": ("jeans", "slim trousers", "tight pants"),
    "wide trousers": ("wide trousers", "loose pants"),
    "shorts": ("shorts", "short pants"),
    "short skirt": ("skirt", "short skirt"),
    "long skirt": ("long skirt", "skirt"),
    "shoes": ("shoes", "sneakers"),
    "boots": ("boots", "high boots"),
    "backpack": ("backpack", "rucksack"),
    "shoulder bag": ("shoulder bag", "messenger bag"),
    "handbag": ("handbag", "purse"),
    "suitcase": ("suitcase", "trolley case"),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knitted hat"),
    "sun hat": ("sun hat", "wide-brimmed hat"),
}
PLURALS = ("jeans", "wide trousers", "shorts", "shoes", "boots")
BUILD_WORDS = {"slim": ("slim", "thin"), "heavy": ("heavy", "stout"), "average": ()}
HEIGHT_WORDS = {"short": ("short", "small"), "tall": ("tall",), "medium": ()}


def _pick(rng: np.random.Generator, words) -> str:
    return words[int(rng.integers(len(words)))]


def _colour(rng: np.random.Generator, name: str) -> str:
    return _pick(rng, COLOUR_WORDS[name])


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _pattern_word(rng: np.random.Generator, surface: str) -> str:
    if surface.endswith("stripes"):
        return _pick(rng, ("striped", "striped", "stripy"))
    return _pick(rng, {"checks": ("checked", "plaid"), "dots": ("dotted", "spotted")}[surface])


def _garment(rng: np.random.Generator, kind: str, colour: str, surface: str, accent: str) -> str:
    """Return e.g. "a red and white striped coat", "navy jeans", "a green hoodie with a yellow logo"."""
    words, tail = [_colour(rng, colour)], ""
    if surface in LOGOS and rng.random() < 0.7:
        tail = f" with {_with_article(_colour(rng, accent))} {_pick(rng, ('logo', 'print'))}"
    elif surface not in ("plain", *LOGOS) and rng.random() < 0.8:
        if rng.random() < 0.75:
            words += ["and", _colour(rng, accent)]
        words.append(_pattern_word(rng, surface))
    phrase = " ".join([*words, _pick(rng, NOUNS[kind])])
    return (phrase if kind in PLURALS else _with_article(phrase)) + tail


def _worn(rng: np.random.Generator, person: Person) -> list[str]:
    """Return what the person wears as noun phrases: clothes first, each part in random order, some left out."""
    clothes, extras = [], []
    if rng.random() < 0.97:
        clothes.append(_garment(rng, person.upper, person.upper_colour, person.surface, person.accent_colour))
    if rng.random() < 0.9:
        lower = (person.lower, person.lower_colour, person.lower_pattern, person.lower_accent)
        clothes.append(_garment(rng, *lower))
    if rng.random() < 0.65:
        extras.append(f"{_colour(rng, person.shoes_colour)} {_pick(rng, NOUNS[person.shoes])}")
    if person.hat != "none" and rng.random() < 0.85:
        extras.append(_with_article(f"{_colour(rng, person.hat_colour)} {_pick(rng, NOUNS[person.hat])}"))
    if person.scarf_colour and rng.random() < 0.85:
        extras.append(_with_article(f"{_colour(rng, person.scarf_colour)} scarf"))
    if person.glasses and rng.random() < 0.6:
        extras.append(_pick(rng, ("sunglasses", "dark glasses")))
    return [clothes[i] for i in rng.permutation(len(clothes))] + [extras[i] for i in rng.permutation(len(extras))]


def _subject(rng: np.random.Generator, person: Person) -> str:
    """Return e.g. "A tall woman with long black hair"."""
    stature = [*HEIGHT_WORDS[person.height], *BUILD_WORDS[person.build]]
    words = [_pick(rng, stature)] if stature and rng.random() < 0.4 else []
    phrase = " ".join([*words, _pick(rng, SUBJECTS[person.gender])])
    phrase = _with_article(phrase) if rng.random() < 0.6 else f"the {phrase}"
    if rng.random() < 0.8:
        phrase += f" with {_pick(rng, HAIR_WORDS[person.hair_style])} {_colour(rng, person.hair_colour)} hair"
    return phrase


def _carried(rng: np.random.Generator, person: Person) -> str:
    """Return e.g. "a yellow backpack", or "" without a bag or if it is not mentioned."""
    if person.bag == "none" or rng.random() > 0.88:
        return ""
    side = f" on the {person.bag_side} side" if person.bag_side and rng.random() < 0.4 else ""
    return _with_article(f"{_colour(rng, person.bag_colour)} {_pick(rng, NOUNS[person.bag])}") + side


def _join(phrases: list[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def write_caption(rng: np.random.Generator, person: Person) -> str:
    """Write one caption of one or two sentences about a random part of the person's attributes."""
    worn = _worn(rng, person) or [f"{_colour(rng, person.shoes_colour)} {_pick(rng, NOUNS[person.shoes])}"]
    bag, pronoun = _carried(rng, person), PRONOUNS[person.gender]
    first = worn[: int(rng.integers(1, len(worn) + 1))]
    rest = worn[len(first) :]
    verb = _pick(rng, ("wears", "is wearing", "is dressed in", "has on", "walks in"))
    sentence = f"{_subject(rng, person)} {verb} {_join(first)}"
    carrying = _pick(rng, ("carrying", "with", "holding" if person.bag == "handbag" else "carrying"))
    if bag and (not rest or rng.random() < 0.4):
        sentence, bag = f"{sentence}, {carrying} {bag}", ""
    sentences = [sentence]
    if rest:
        sentences.append(f"{pronoun} {_pick(rng, ('wears', 'also wears', 'has', 'is also wearing'))} {_join(rest)}")
        if bag:
            sentences[-1] += f" and {_pick(rng, ('carries', 'is carrying'))} {bag}"
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)


def caption_tokens(caption: str) -> list[str]:
    """Return the lower-case words of a caption, as CUHK-PEDES lists them in ``processed_tokens``."""
    return re.findall(r"[a-z0-9]+", caption.lower())
