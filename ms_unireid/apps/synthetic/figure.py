"""The shape of a synthetic person in a pose: a list of coloured parts, back to front, in body units.

Body units: x to the right from the body's axis; y downward, 0 at the crown and 1 at the soles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ms_unireid.apps.synthetic.outlines import arc, bent, box, ellipse, limb, rounded, symmetric
from ms_unireid.apps.synthetic.person import PATTERNS, Person, Rgb, colours_of

WIDTHS = {"slim": 0.78, "average": 1.0, "heavy": 1.26}
DARK: Rgb = (24, 24, 28)
SHOULDER, WAIST, HIP, KNEE, ANKLE = 0.19, 0.40, 0.49, 0.73, 0.93
HEAD_X, HEAD_Y, HEAD_MIDDLE = 0.056, 0.074, 0.078


@dataclass(frozen=True)
class Pose:
    """One moment of walking. Angles are in radians from the vertical, outward positive: (image left, image right)."""

    back: bool  # seen from behind
    turn: float  # -1 faces image left, 1 image right
    arms: tuple[float, float]
    elbows: tuple[float, float]
    stride: float
    lifted: int  # which foot is off the ground: -1 image left, 1 image right
    lean: float


@dataclass(frozen=True)
class Part:
    """A filled shape, or a line when ``width`` is positive."""

    points: np.ndarray  # (N, 2) in body units
    colour: Rgb
    width: float = 0.0
    pattern: str = "plain"
    accent: Rgb = DARK
    tone: int | None = None  # grey of the fill in a sketch; None shades by the colour's lightness
    hatched: bool = False  # pencil hatching in a sketch
    outlined: bool = True


def draw_pose(rng: np.random.Generator) -> Pose:
    """Draw one pose at random; one in five is seen from behind."""
    return Pose(
        back=bool(rng.random() < 0.2),
        turn=float(rng.choice((-1, 1)) * rng.uniform(0.5, 0.9)),
        arms=(float(rng.uniform(0.15, 0.25)), float(rng.uniform(0.15, 0.25))),
        elbows=(float(rng.uniform(-0.08, 0.08)), float(rng.uniform(-0.08, 0.08))),
        stride=float(rng.uniform(0.01, 0.04)),
        lifted=int(rng.choice((-1, 1))),
        lean=float(rng.uniform(-0.015, 0.015)),
    )


class Figure:
    """Builds the parts of one person in one pose, in the person's own colours or in others with the same names."""

    def __init__(self, person: Person, pose: Pose, colours: dict[str, Rgb] | None = None):
        """Compute the body's measures and joints."""
        self.person, self.pose = person, pose
        self.colours = colours_of(person) if colours is None else colours
        self.w = WIDTHS[person.build]
        woman = person.gender == "woman"
        self.shoulder = (0.088 if woman else 0.098) * self.w
        self.waist = (0.066 if woman else 0.082) * self.w
        self.hip = (0.092 if woman else 0.086) * self.w
        self.side = (1 if person.bag_side == "left" else -1) * (-1 if pose.back else 1)
        self.upper = self.colours["upper_colour"]
        self.lower = self.colours["lower_colour"]
        self.hair, self.skin = self.colours["hair_colour"], self.colours["skin"]
        self.arms = {side: self._arm_joints(side) for side in (-1, 1)}
        self.legs = {side: self._leg_joints(side) for side in (-1, 1)}

    def parts(self) -> list[Part]:
        """Return all parts, from back to front."""
        behind = self._hair_behind() if not self.pose.back else []
        pack = self._backpack() if self.person.bag == "backpack" else []
        bag = self._side_bag() if self.person.bag not in ("none", "backpack") else []
        parts = [] if self.pose.back else pack + behind
        parts += self._bare_legs() + self._feet_and_lower()
        arms = [part for side in (-1, 1) for part in self._arm(side)]
        if self.person.upper == "poncho":
            parts += arms + self._neck() + self._torso()
        else:
            parts += self._neck() + self._torso() + arms
        parts += [] if self.pose.back else self._front_details()
        parts += self._surface_logo() + self._scarf() + self._head() + (self._hair_behind() if self.pose.back else [])
        parts += self._hat() + (pack if self.pose.back else self._pack_straps(pack)) + bag
        return [replace(part, points=part.points + (self.pose.lean, 0) * (1 - part.points[:, 1:])) for part in parts]

    def _arm_joints(self, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        held = self.person.bag in ("handbag", "suitcase") and side == self.side
        index = (side + 1) // 2
        angle = 0.14 if held else self.pose.arms[index]
        lower = angle + (0.0 if held else self.pose.elbows[index])
        top = np.array((side * (self.shoulder - 0.008), SHOULDER + 0.012))
        elbow = top + 0.15 * np.array((side * np.sin(angle), np.cos(angle)))
        return top, elbow, elbow + 0.14 * np.array((side * np.sin(lower), np.cos(lower)))

    def _leg_joints(self, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lifted = self.pose.lifted == side
        hip = np.array((side * self.hip * 0.5, HIP))
        spread = side * (self.hip * 0.5 + self.pose.stride)
        ankle = np.array((spread, ANKLE - (0.03 if lifted else 0.0)))
        return hip, np.array((0.5 * (hip[0] + spread) + 0.012 * self.pose.turn, KNEE)), ankle

    def _leg(self, side: int, top_width: float, end_width: float, until: float, colour: Rgb, **look) -> Part:
        """Cover a leg from the hip to the fraction ``until`` of the way to the ankle."""
        hip, knee, ankle = self.legs[side]
        end = ankle * until + (hip if until < 0.6 else knee) * (1 - until)
        middle = knee if until >= 0.6 else 0.5 * (hip + end)
        widths = (top_width, 0.6 * top_width + 0.4 * end_width, end_width)
        return Part(bent((hip - (0, 0.02), middle, end), widths, passes=0), colour, **look)

    def _bare_legs(self) -> list[Part]:
        covered = self.person.lower in ("jeans", "wide trousers")
        return [] if covered else [self._leg(s, 0.034 * self.w, 0.02, 1.0, self.skin) for s in (-1, 1)]

    def _feet_and_lower(self) -> list[Part]:
        feet, lower = self._feet(), self._lower()
        return lower + feet if self.person.lower == "jeans" else feet + lower

    def _feet(self) -> list[Part]:
        colour, parts = self.colours["shoes_colour"], []
        for side in (-1, 1):
            _, knee, ankle = self.legs[side]
            toe = ankle + (0.03 * self.pose.turn, 0.048)
            if self.person.shoes == "boots":
                top = 0.6 * knee + 0.4 * ankle
                shaft = (top, 0.5 * (top + ankle), ankle + (0, 0.04))
                parts.append(Part(bent(shaft, (0.038, 0.032, 0.032), 0), colour))
            else:
                parts.append(Part(limb(ankle - (0, 0.02), toe, 0.022, 0.028), colour))
            parts.append(Part(ellipse(*toe, 0.036 + 0.012 * abs(self.pose.turn), 0.022), colour))
        return parts

    def _lower(self) -> list[Part]:
        person = self.person
        look = {"pattern": person.lower_pattern, "accent": self.colours["lower_accent"]}
        if person.lower in ("short skirt", "long skirt"):
            end, flare = (0.68, 0.155) if person.lower == "short skirt" else (0.90, 0.125)
            flare *= 0.6 + 0.4 * self.w
            right = [(0, WAIST), (self.waist, WAIST), (self.hip, HIP), (flare, end), (0, end + 0.012)]
            return [Part(symmetric(right), self.lower, **look)]
        until = 0.48 if person.lower == "shorts" else 1.02
        end = {"jeans": 0.024, "wide trousers": 0.06, "shorts": 0.05 * self.w}[person.lower]
        top = (0.044 if person.lower == "jeans" else 0.05) * self.w
        pelvis = symmetric([(0, WAIST), (self.waist, WAIST), (self.hip, HIP), (self.hip * 0.8, HIP + 0.05), (0, 0.55)])
        legs = [self._leg(side, top, end, until, self.lower, **look) for side in (-1, 1)]
        return [*legs, Part(pelvis, self.lower, outlined=False, **look)]

    def _upper_look(self) -> dict:
        pattern = self.person.surface if self.person.surface in PATTERNS else "plain"
        return {"pattern": pattern, "accent": self.colours["accent_colour"]}

    def _torso(self) -> list[Part]:
        kind, sh, waist, hip = self.person.upper, self.shoulder, self.waist, self.hip
        top = [(0, 0.165), (0.035, 0.165), (sh, SHOULDER)]
        if kind == "tank top":
            top = [(0, 0.23), (0.03, 0.18), (0.055, 0.175), (sh * 0.72, 0.25), (sh * 0.9, 0.28)]
        below = {
            "coat": [(waist * 1.15, WAIST), (hip * 1.25, 0.56), (hip * 1.3, 0.74), (0, 0.745)],
            "dress": [(waist, WAIST - 0.03), (hip * 1.1, HIP), (hip + 0.08, 0.73), (0.04, 0.745), (0, 0.735)],
            "poncho": [(sh + 0.062, 0.47), (0, 0.59)],
            "jacket": [(sh * 0.95, 0.3), (waist * 1.18, 0.47), (0, 0.475)],
            "hoodie": [(sh * 1.05, 0.3), (hip * 1.2, 0.49), (hip * 1.05, 0.525), (0, 0.525)],
            "sweater": [(sh * 0.95, 0.3), (waist * 1.1, WAIST), (hip * 1.05, 0.515), (0, 0.52)],
        }.get(kind, [(sh * 0.92, 0.3), (waist, WAIST), (hip, 0.50), (0, 0.505)])
        parts = [Part(symmetric(top + below, 1 if kind == "poncho" else 2), self.upper, **self._upper_look())]
        if kind == "hoodie":
            parts.insert(0, Part(ellipse(0, 0.165, 0.085, 0.045), self.upper))
        return parts

    def _arm(self, side: int) -> list[Part]:
        top, elbow, hand = self.arms[side]
        thick, look = 0.029 * (0.5 + 0.5 * self.w), self._upper_look()
        skin = self.skin
        parts = [Part(ellipse(*hand, 0.019, 0.022), skin)]
        if self.person.upper in ("t-shirt", "dress", "tank top", "poncho"):
            parts.append(Part(bent((top, elbow, hand), thick * np.array((1.0, 0.85, 0.6))), skin))
            if self.person.upper in ("t-shirt", "dress"):
                sleeve = (top - (0, 0.02), top + 0.2 * (elbow - top), top + 0.75 * (elbow - top))
                parts.append(Part(bent(sleeve, thick * np.array((0.9, 1.25, 1.4))), self.upper, **look))
            return parts
        wide = {"coat": 1.25, "hoodie": 1.35}.get(self.person.upper, 1.15)
        widths = thick * wide * np.array((0.8, 1.15, 1.1, 0.9))
        joints = (top - (0, 0.022), top + 0.15 * (elbow - top), elbow, hand)
        parts.append(Part(bent(joints, widths), self.upper, **look))
        return parts

    def _neck(self) -> list[Part]:
        return [Part(limb((0, 0.12), (0, 0.19), 0.026, 0.03), self.skin)]

    def _front_details(self) -> list[Part]:
        """Draw zips, lapels, pockets, strings and belts."""
        kind, dark = self.person.upper, tuple(int(0.45 * c) for c in self.upper)
        if kind == "jacket":
            collar = [[(0, 0.24), (s * 0.055, 0.18), (s * 0.03, 0.155)] for s in (-1, 1)]
            pockets = [[(s * 0.03, 0.40), (s * 0.065 * self.w, 0.38)] for s in (-1, 1)]
            return [Part(np.array(c), dark) for c in collar] + self._lines([[(0, 0.24), (0, 0.47)], *pockets], dark)
        if kind == "coat":
            lapels = [Part(np.array([(0, 0.34), (s * 0.06, 0.21), (s * 0.035, 0.16)]), dark) for s in (-1, 1)]
            buttons = [Part(ellipse(0.022, y, 0.010, 0.009), dark, tone=70) for y in (0.40, 0.48, 0.56)]
            return lapels + self._lines([[(0, 0.34), (0, 0.74)]], dark) + buttons
        if kind == "hoodie":
            pocket = [(-0.04, 0.41), (0.04, 0.41), (0.06, 0.475), (-0.06, 0.475), (-0.04, 0.41)]
            strings = [[(s * 0.02, 0.19), (s * 0.024, 0.27)] for s in (-1, 1)]
            return self._lines([pocket, *strings], dark)
        if kind == "dress":
            return self._lines([[(-self.waist, 0.375), (self.waist, 0.375)]], dark, 0.014)
        if kind == "t-shirt":
            return [Part(np.array([(-0.03, 0.165), (0, 0.215), (0.03, 0.165)]), self.skin)]
        return []

    @staticmethod
    def _lines(lines, colour: Rgb, width: float = 0.008) -> list[Part]:
        return [Part(np.asarray(line, float), colour, width=width) for line in lines]

    def _surface_logo(self) -> list[Part]:
        y, r = 0.305, 0.056
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        star = np.stack((np.cos(angles), np.sin(angles)), 1) * np.where(np.arange(10) % 2, 0.42, 1.15)[:, None]
        a = 0.36
        quarter = np.array([(-a, -1), (a, -1), (a, -a)])
        cross = np.concatenate([quarter @ np.array([(c, s), (-s, c)]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))])
        heart = [(0, -0.45), (0.35, -0.95), (0.85, -0.85), (1, -0.35), (0.7, 0.2), (0, 1)]
        shapes = {
            "circle": ellipse(0, 0, 0.95, 0.95),
            "star": star,
            "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
            "triangle": [(0, -1.05), (1.1, 0.9), (-1.1, 0.9)],
            "cross": cross,
            "heart": [*heart, *[(-x, y) for x, y in heart[-2:0:-1]]],
        }
        if self.person.surface not in shapes:
            return []
        points = np.asarray(shapes[self.person.surface], float) * r * (0.7 + 0.3 * self.w) + (0, y)
        return [Part(points, self.colours["accent_colour"])]

    def _scarf(self) -> list[Part]:
        if not self.person.scarf_colour:
            return []
        colour, x = self.colours["scarf_colour"], 0.03 * np.sign(self.pose.turn)
        tail = Part(limb((x, 0.18), (x * 1.2, 0.36), 0.022, 0.026), colour)
        return [tail] * (not self.pose.back) + [Part(ellipse(0, 0.168, 0.062, 0.030), colour)]

    def _head(self) -> list[Part]:
        face_x = 0.0 if self.pose.back else 0.014 * self.pose.turn
        parts = [Part(ellipse(0, HEAD_MIDDLE, HEAD_X, HEAD_Y), self.skin)]
        if self.pose.back:
            return [*parts, Part(ellipse(0, HEAD_MIDDLE - 0.008, HEAD_X, HEAD_Y), self.hair, hatched=True)]
        parts += self._hair_top()
        for side in (-1, 1):
            eye = ellipse(face_x + side * 0.022, 0.078, 0.007, 0.008)
            lens = ellipse(face_x + side * 0.025, 0.080, 0.021, 0.017)
            parts.append(Part(lens if self.person.glasses else eye, DARK, tone=40))
        if self.person.glasses:
            parts += self._lines([[(-HEAD_X, 0.072), (HEAD_X, 0.072)]], DARK, 0.012)
        return parts + self._lines([[(face_x - 0.016, 0.122), (face_x + 0.016, 0.122)]], (150, 60, 60), 0.009)

    def _hair_top(self) -> list[Part]:
        """Cover the crown and the forehead."""
        fringe = [(HEAD_X * 0.9, 0.062), (0.02, 0.045), (-0.02, 0.05), (-HEAD_X * 0.9, 0.062)]
        crown = np.concatenate((ellipse(0, 0.07, HEAD_X + 0.006, HEAD_Y + 0.004, 180, 360), fringe))
        return [Part(crown, self.hair, hatched=True)]

    def _hair_behind(self) -> list[Part]:
        """Draw the hair that hangs or stands around the head."""
        style, away = self.person.hair_style, -np.sign(self.pose.turn)
        if style == "spiky":
            radius = np.where(np.arange(13) % 2, 1.55, 0.95)[:, None]
            points = (0, 0.075) + radius * arc(160, 380, 13) * (HEAD_X, HEAD_Y)
        elif style == "bob":
            points = symmetric([(0, 0.0), (0.06, 0.01), (0.082, 0.10), (0.085, 0.165), (0.03, 0.17)])
        elif style == "long":
            points = symmetric([(0, 0.0), (0.06, 0.01), (0.075, 0.10), (0.088, 0.30), (0.04, 0.33)])
        elif style == "curly":
            radius = 1.55 + 0.16 * np.sin(9 * np.radians(np.linspace(0, 360, 48)))[:, None]
            points = (0, 0.06) + radius * arc(0, 360, 48) * (HEAD_X, 0.062)
        elif style == "ponytail":
            x = 0.0 if self.pose.back else 0.06 * away
            tail = [(x * 1.7 + 0.035, 0.22), (x * 1.6, 0.27), (x * 1.7 - 0.035, 0.22)]
            points = rounded([(x - 0.02, 0.05), (x + 0.02, 0.05), *tail])
        elif style == "bun":
            points = ellipse(0, -0.022, 0.036, 0.036)
        else:
            return []
        return [Part(points, self.hair, hatched=True)]

    def _hat(self) -> list[Part]:
        if self.person.hat == "none":
            return []
        colour, turn = self.colours["hat_colour"], np.sign(self.pose.turn)
        dome = ellipse(0, 0.05, HEAD_X + 0.012, HEAD_Y - 0.004, 180, 360)
        if self.person.hat == "cap":
            x = 0.0 if self.pose.back else 0.055 * turn
            peak = [] if self.pose.back else [Part(ellipse(x, 0.05, 0.058, 0.014), colour)]
            return [Part(dome, colour), *peak]
        if self.person.hat == "beanie":
            bobble = Part(ellipse(0, -0.04, 0.026, 0.024), colour)
            return [Part(dome - (0, 0.01), colour), bobble, Part(box(0, 0.046, 0.07, 0.016), colour)]
        return [Part(ellipse(0, 0.048, 0.135, 0.024), colour), Part(dome * (0.9, 1), colour)]

    def _bag_colour(self) -> tuple[Rgb, Rgb]:
        colour = self.colours["bag_colour"]
        return colour, tuple(int(0.5 * c) for c in colour)

    def _backpack(self) -> list[Part]:
        """Draw the whole pack seen from behind, or its edges beside the body seen from the front."""
        colour, dark = self._bag_colour()
        half = 0.085 * (0.4 + 0.6 * self.w) if self.pose.back else self.shoulder + 0.045
        body = symmetric([(half * 0.7, 0.165), (half, 0.19), (half, 0.44)])
        pocket = box(0, 0.375, half * 0.7, 0.045)
        return [Part(body, colour), Part(pocket, dark)] if self.pose.back else [Part(body, colour, hatched=True)]

    def _pack_straps(self, pack: list[Part]) -> list[Part]:
        x = self.shoulder * 0.62
        lines = [[(s * x * 0.8, 0.172), (s * x, 0.26), (s * x * 1.15, 0.37)] for s in (-1, 1)]
        return self._lines(lines, self._bag_colour()[1], 0.020) if pack else []

    def _side_bag(self) -> list[Part]:
        colour, dark = self._bag_colour()
        if self.person.bag == "shoulder bag":
            x, y = self.side * min(self.hip + 0.035, 0.125), 0.49
            strap = [(-self.side * self.shoulder * 0.7, 0.178), (self.side * self.hip * 0.9, 0.45)]
            flap = Part(box(x, y - 0.019, 0.06, 0.031, spread=-0.025), dark, tone=170)
            return [*self._lines([strap], dark, 0.018), Part(box(x, y, 0.06, 0.05), colour), flap]
        x, y = self.arms[self.side][2]
        x = self.side * min(abs(x), 0.128)
        if self.person.bag == "handbag":
            handle = ellipse(x, y + 0.05, 0.035, 0.05, 180, 360)
            return [*self._lines([handle], dark, 0.012), Part(box(x, y + 0.0925, 0.045, 0.0475, spread=0.017), colour)]
        poles = [[(x - 0.025, 0.70), (x - 0.025, y), (x + 0.025, y), (x + 0.025, 0.70)]]
        body = box(x, 0.825, 0.06, 0.145)
        ribs = [[(x + d, 0.71), (x + d, 0.94)] for d in (-0.02, 0.02)]
        wheels = [Part(ellipse(x + d, 0.985, 0.015, 0.015), DARK, tone=60) for d in (-0.04, 0.04)]
        return [*self._lines(poles, DARK, 0.010), *wheels, Part(body, colour), *self._lines(ribs, dark, 0.010)]
