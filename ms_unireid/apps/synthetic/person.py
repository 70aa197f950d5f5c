"""The people of the synthetic data set: their attributes, drawn at random."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (205, 30, 38),
    "orange": (242, 130, 20),
    "yellow": (248, 214, 40),
    "green": (30, 135, 60),
    "light blue": (112, 190, 238),
    "navy": (28, 44, 120),
    "purple": (122, 46, 158),
    "pink": (246, 140, 186),
    "brown": (118, 72, 38),
    "black": (26, 26, 30),
    "white": (244, 244, 242),
    "grey": (138, 140, 144),
}
HAIR_COLOURS: dict[str, Rgb] = {
    "black": (28, 24, 26),
    "brown": (98, 58, 30),
    "blond": (228, 192, 100),
    "ginger": (196, 84, 26),
    "grey": (168, 168, 170),
}
SKINS: tuple[Rgb, ...] = ((250, 214, 186), (232, 184, 142), (188, 130, 88), (122, 80, 54))

HAIR_STYLES = ("short", "spiky", "bob", "long", "ponytail", "bun", "curly")
HAIR_STYLES_UNDER_HAT = ("short", "bob", "long", "ponytail", "curly")
HATS = ("none", "cap", "beanie", "sun hat")
UPPERS = ("t-shirt", "tank top", "sweater", "jacket", "hoodie", "poncho", "coat", "dress")
LONG_UPPERS = ("coat", "dress")  # hide shorts and short skirts
PATTERNS = ("broad stripes", "narrow stripes", "vertical stripes", "diagonal stripes", "checks", "dots")
LOGOS = ("circle", "star", "square", "triangle", "cross", "heart")
LOWERS = ("jeans", "wide trousers", "shorts", "short skirt", "long skirt")
LOWER_PATTERNS = ("plain", "vertical stripes", "checks", "dots")
SHOES = ("shoes", "boots")
BAGS = ("none", "backpack", "shoulder bag", "handbag", "suitcase")
FABRICS = {"leather": 58, "denim": 98, "wool": 140, "linen": 185, "cotton": 228}  # near-infrared grey of each
BUILDS = ("slim", "average", "heavy")
HEIGHTS = ("short", "medium", "tall")


@dataclass(frozen=True)
class Person:
    """One identity. A thing that is absent has the colour and side "", so that people who look the same are equal."""

    gender: str
    skin: Rgb
    height: str
    build: str
    hair_style: str
    hair_colour: str
    hat: str
    hat_colour: str
    glasses: bool
    scarf_colour: str
    upper: str
    upper_colour: str
    surface: str  # "plain", one of PATTERNS or one of LOGOS
    accent_colour: str  # of the pattern or logo
    lower: str
    lower_colour: str
    lower_pattern: str
    lower_accent: str
    shoes: str
    shoes_colour: str
    bag: str
    bag_colour: str
    bag_side: str  # the person's own left or right; "" without a bag and for a backpack

    def shape_key(self) -> tuple:
        """Return the attributes that a colourless sketch can show."""
        return (
            *(self.height, self.build, self.hair_style, self.hat, self.glasses, bool(self.scarf_colour)),
            *(self.upper, self.surface, self.lower, self.lower_pattern, self.shoes, self.bag, self.bag_side),
        )


GARMENT_COLOURS = ("hat_colour", "scarf_colour", "upper_colour", "lower_colour", "shoes_colour", "bag_colour")
ACCENTS = {"accent_colour": "upper_colour", "lower_accent": "lower_colour"}  # of a pattern or logo on a garment


def colours_of(person: Person) -> dict[str, Rgb]:
    """Return the colour behind each attribute that names one, as light shows it; of an absent thing any."""
    worn = {name: COLOURS[getattr(person, name) or "black"] for name in (*GARMENT_COLOURS, *ACCENTS)}
    return {"skin": person.skin, "hair_colour": HAIR_COLOURS[person.hair_colour], **worn}


def draw_pencil_colours(rng: np.random.Generator, person: Person) -> dict[str, Rgb]:
    """Choose an artist's pencils for `colours_of`: near the colours, not exact, and washed out."""
    chosen = {}
    for name, colour in colours_of(person).items():
        wash, error = rng.uniform(0.02, 0.3), 8 if name in ("skin", "hair_colour") else 24
        pencil = (np.array(colour) + rng.normal(0, error, 3)) * (1 - wash) + 255 * wash
        chosen[name] = tuple(pencil.clip(0, 255).astype(int).tolist())
    return chosen


def draw_infrared_greys(rng: np.random.Generator) -> dict[str, Rgb]:
    """Draw a fabric for each garment and return what near infrared shows for `colours_of`: greys.

    They do not depend on colours: dyes are clear in the near infrared, and skin and hair of all people are alike. A
    third of the patterns and logos are dyed and disappear; the others are of another fabric.
    """
    greys = dict(zip(GARMENT_COLOURS, rng.choice(list(FABRICS.values()), len(GARMENT_COLOURS)).tolist(), strict=True))
    for accent, garment in ACCENTS.items():
        others = [grey for grey in FABRICS.values() if grey != greys[garment]]
        greys[accent] = _choose(rng, others) if rng.random() < 2 / 3 else greys[garment]
    return {name: (grey,) * 3 for name, grey in {"skin": 212, "hair_colour": 46, **greys}.items()}


def _choose(rng: np.random.Generator, options, weights=None):
    probabilities = None if weights is None else np.asarray(weights, float) / sum(weights)
    return options[int(rng.choice(len(options), p=probabilities))]


def _contrasting(rng: np.random.Generator, colour: str) -> str:
    """Choose a colour of clearly different lightness, so that the pattern can be seen."""
    light = {name: 0.3 * r + 0.59 * g + 0.11 * b for name, (r, g, b) in COLOURS.items()}
    return _choose(rng, [name for name in COLOURS if abs(light[name] - light[colour]) > 70])


def _draw_head(rng: np.random.Generator, gender: str) -> dict:
    hat = _choose(rng, HATS, (5, 2, 2, 2))
    styles = HAIR_STYLES if hat == "none" else HAIR_STYLES_UNDER_HAT
    favoured = {"man": ("short", "spiky", "curly"), "woman": ("bob", "long", "ponytail", "bun", "curly")}[gender]
    return {
        "hair_style": _choose(rng, styles, [3 if style in favoured else 1 for style in styles]),
        "hair_colour": _choose(rng, list(HAIR_COLOURS)),
        "hat": hat,
        "hat_colour": "" if hat == "none" else _choose(rng, list(COLOURS)),
        "glasses": bool(rng.random() < 0.25),
        "scarf_colour": _choose(rng, list(COLOURS)) if rng.random() < 0.25 else "",
    }


def _draw_clothes(rng: np.random.Generator, gender: str) -> dict:
    upper = _choose(rng, UPPERS if gender == "woman" else UPPERS[:-1])
    colour = _choose(rng, list(COLOURS))
    surface = _choose(rng, ("plain", *PATTERNS, *LOGOS), (2, *[1.2] * 6, *[0.8] * 6))
    lowers = LOWERS if gender == "woman" else LOWERS[:3]
    if upper in LONG_UPPERS:
        lowers = LOWERS[:2]
    lower_colour = _choose(rng, list(COLOURS))
    lower_pattern = _choose(rng, LOWER_PATTERNS, (4, 1, 1, 1))
    return {
        "upper": upper,
        "upper_colour": colour,
        "surface": surface,
        "accent_colour": "" if surface == "plain" else _contrasting(rng, colour),
        "lower": _choose(rng, lowers),
        "lower_colour": lower_colour,
        "lower_pattern": lower_pattern,
        "lower_accent": "" if lower_pattern == "plain" else _contrasting(rng, lower_colour),
        "shoes": _choose(rng, SHOES),
        "shoes_colour": _choose(rng, list(COLOURS)),
    }


def _draw_bag(rng: np.random.Generator) -> dict:
    bag = _choose(rng, BAGS)
    return {
        "bag": bag,
        "bag_colour": "" if bag == "none" else _choose(rng, list(COLOURS)),
        "bag_side": "" if bag in ("none", "backpack") else _choose(rng, ("left", "right")),
    }


def draw_person(rng: np.random.Generator) -> Person:
    """Draw one person at random."""
    gender = _choose(rng, ("man", "woman"))
    body = {"skin": _choose(rng, SKINS), "height": _choose(rng, HEIGHTS), "build": _choose(rng, BUILDS)}
    return Person(gender=gender, **body, **_draw_head(rng, gender), **_draw_clothes(rng, gender), **_draw_bag(rng))


def draw_people(count: int, seed: int, stream: int = 0, taken: Collection[Person] = ()) -> list[Person]:
    """Draw persons 1..count of a random stream; a larger count only adds people.

    No two of them, nor one of them and one of `taken`, have the same `shape_key`.
    """
    people, keys = [], {person.shape_key() for person in taken}
    for number in range(1, count + 1):
        rng = np.random.default_rng((seed, stream, number))
        person = draw_person(rng)
        while person.shape_key() in keys:
            person = draw_person(rng)
        keys.add(person.shape_key())
        people.append(person)
    return people
