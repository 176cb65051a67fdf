"""The embedded world: a renderer of small captioned pictures, deterministic from a seed, no files.

A *kind* is a function ``kind(rng, **fixed) -> (picture, captions)``. It draws one picture,
`(3, 32, 32)` float64 in [0, 1], and describes it in captions. `fixed` sets some attributes; the
others are random. A class of the mini suite fixes its own attributes; pre-training fixes none of
them. Random numbers come from numpy's `RandomState`. Its stream never changes, so pictures are the
same on every machine.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from zsrobust.mini.glyphs import GLYPHS

Array = NDArray[np.float64]
Kind = Callable[..., tuple[Array, list[str]]]

SIZE = 32
_Y, _X = np.mgrid[0:SIZE, 0:SIZE] + 0.5

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.12),
    "orange": (0.97, 0.55, 0.08),
    "yellow": (0.97, 0.90, 0.15),
    "green": (0.13, 0.62, 0.18),
    "cyan": (0.20, 0.85, 0.88),
    "blue": (0.12, 0.22, 0.85),
    "purple": (0.52, 0.14, 0.66),
    "pink": (0.98, 0.62, 0.76),
    "brown": (0.45, 0.27, 0.10),
    "white": (0.97, 0.97, 0.97),
}
PLAIN = {"black": (0.05, 0.05, 0.05), "gray": (0.5, 0.5, 0.5), "light": (0.85, 0.85, 0.82)}
COUNTS = ["one", "two", "three", "four"]
POSITIONS = {
    "top left": (9, 9),
    "top": (16, 9),
    "top right": (23, 9),
    "left": (9, 16),
    "center": (16, 16),
    "right": (23, 16),
    "bottom left": (9, 23),
    "bottom": (16, 23),
    "bottom right": (23, 23),
}


# Signed distances: negative inside, in units of the shape's radius.


def _polygon(u: Array, v: Array, sides: int, turn: float = 0.0) -> Array:
    angles = 2 * np.pi * (np.arange(sides) + 0.5) / sides + turn - np.pi / 2
    planes = u[None] * np.cos(angles)[:, None, None] + v[None] * np.sin(angles)[:, None, None]
    return np.asarray(planes.max(0) - np.cos(np.pi / sides))


def _box(u: Array, v: Array, width: float, height: float) -> Array:
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def _disc(u: Array, v: Array, radius: float) -> Array:
    return np.hypot(u, v) - radius


def _star(u: Array, v: Array, points: int = 5, inner: float = 0.42) -> Array:
    step = np.pi / points
    angle = np.abs((np.arctan2(u, -v) + step) % (2 * step) - step)
    x, y = np.hypot(u, v) * np.cos(angle), np.hypot(u, v) * np.sin(angle)
    dx, dy = inner * np.cos(step) - 1, inner * np.sin(step)
    return np.asarray(((x - 1) * dy - y * dx) / np.hypot(dx, dy))


def _heart(u: Array, v: Array) -> Array:
    lobes = np.minimum(_disc(u - 0.45, v + 0.3, 0.52), _disc(u + 0.45, v + 0.3, 0.52))
    tip = np.maximum((np.abs(u) * 1.05 + v - 0.95) / 1.45, -v - 0.25)
    return np.minimum(lobes, tip)


def _arrow(u: Array, v: Array) -> Array:
    head = np.maximum((np.abs(v) + u - 1.0) / 1.41, -u)
    shaft = _box(u + 0.45, v, 0.55, 0.28)
    return np.minimum(head, shaft)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda u, v: _disc(u, v, 0.92),
    "square": lambda u, v: _box(u, v, 0.8, 0.8),
    "triangle": lambda u, v: _polygon(u, v + 0.15, 3),
    "star": _star,
    "heart": _heart,
    "cross": lambda u, v: np.minimum(_box(u, v, 0.32, 0.95), _box(u, v, 0.95, 0.32)),
    "ring": lambda u, v: np.abs(_disc(u, v, 0.68)) - 0.25,
    "diamond": lambda u, v: (np.abs(u) * 1.5 + np.abs(v) - 1.05) / 1.8,
    "crescent": lambda u, v: np.maximum(_disc(u, v, 0.95), -_disc(u - 0.5, v, 0.8)),
    "hexagon": lambda u, v: _polygon(u, v, 6),
}
POLYGONS: dict[str, Callable[[Array, Array], Array]] = {
    "triangle": SHAPES["triangle"],
    "square": SHAPES["square"],
    "pentagon": lambda u, v: _polygon(u, v, 5),
    "hexagon": SHAPES["hexagon"],
    "octagon": lambda u, v: _polygon(u, v, 8, np.pi / 8),
    "circle": SHAPES["circle"],
    "oval": lambda u, v: (np.hypot(u, v * 1.8) - 1.0) / 1.4,
    "rectangle": lambda u, v: _box(u, v, 1.0, 0.5),
    "trapezoid": lambda u, v: np.maximum(np.abs(v) - 0.6, (np.abs(u) * 1.0 - 0.45 * v - 0.7) / 1.1),
    "semicircle": lambda u, v: np.maximum(_disc(u, v - 0.45, 1.0), v - 0.45),
}


# Brushes: each takes a picture (3, 32, 32) and returns a new one or changes it in place.


def _tint(rng: RandomState, rgb: tuple[float, ...], jitter: float = 0.06) -> Array:
    return np.clip(np.array(rgb) + rng.uniform(-jitter, jitter, 3), 0, 1)[:, None, None]


def _pick(rng: RandomState, names: Any, fixed: str | None = None) -> str:
    names = list(names)
    return names[rng.randint(len(names))] if fixed is None else fixed


def _plain(rng: RandomState, rgb: tuple[float, ...]) -> Array:
    return np.repeat(np.repeat(_tint(rng, rgb, 0.08), SIZE, 1), SIZE, 2)


def _paint(picture: Array, mask: Array, color: Array) -> None:
    picture += mask * (color - picture)


def _cover(distance: Array, scale: float) -> Array:
    """Return the share of each pixel inside, from a signed distance in units of `scale` pixels."""
    return np.asarray(np.clip(0.5 - distance * scale, 0, 1))


def _local(x: float, y: float, radius: float, angle: float) -> tuple[Array, Array]:
    dx, dy = (_X - x) / radius, (_Y - y) / radius
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)


def _noise(rng: RandomState, cells: int) -> Array:
    """Return smooth noise in [0, 1], (32, 32), with `cells` bumps a side."""
    grid = rng.random_sample((cells + 1, cells + 1))
    at = (np.arange(SIZE) + 0.5) / SIZE * cells
    low = np.minimum(at.astype(int), cells - 1)
    part = at - low
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part) + rows[:, low + 1] * part)


def _blend(first: Array, second: Array, share: Array) -> Array:
    return first + (second - first) * share


# Full-frame patterns: (32, 32) in [0, 1], the share of the second color.


def _stripes(rng: RandomState, angle: float | None = None) -> Array:
    angle = rng.uniform(0, np.pi) if angle is None else angle
    period = rng.uniform(5, 9)
    wave = np.sin(
        (_X * np.cos(angle) + _Y * np.sin(angle)) * 2 * np.pi / period + rng.uniform(0, 6)
    )
    return np.asarray(np.clip(wave * 2 + 0.5, 0, 1))


def _dots(rng: RandomState) -> Array:
    period, x, y = rng.uniform(6, 9), rng.uniform(0, 8), rng.uniform(0, 8)
    u, v = (_X + x) % period - period / 2, (_Y + y) % period - period / 2
    return np.asarray(np.clip(period * 0.3 - np.hypot(u, v) + 0.5, 0, 1))


def _checkers(rng: RandomState) -> Array:
    period = rng.uniform(7, 12)
    u = np.sin((_X + rng.uniform(0, 9)) * 2 * np.pi / period)
    v = np.sin((_Y + rng.uniform(0, 9)) * 2 * np.pi / period)
    return np.asarray(np.clip(u * v * 4 + 0.5, 0, 1))


def _zigzag(rng: RandomState) -> Array:
    period, fold = rng.uniform(6, 9), rng.uniform(7, 11)
    ridge = np.abs((_X + rng.uniform(0, 9)) % fold - fold / 2) * 1.6
    return np.asarray(np.clip(np.sin((_Y + ridge) * 2 * np.pi / period) * 2 + 0.5, 0, 1))


def _grid(rng: RandomState) -> Array:
    period = rng.uniform(6, 10)
    u, v = (_X + rng.uniform(0, 9)) % period, (_Y + rng.uniform(0, 9)) % period
    return np.asarray(np.clip(1.7 - np.minimum(u, v), 0, 1))


def _rings(rng: RandomState) -> Array:
    far = np.hypot(_X - rng.uniform(10, 22), _Y - rng.uniform(10, 22))
    return np.asarray(
        np.clip(np.sin(far * 2 * np.pi / rng.uniform(5, 8) + rng.uniform(0, 6)) * 2 + 0.5, 0, 1)
    )


def _fade(rng: RandomState) -> Array:
    angle = rng.uniform(0, 2 * np.pi)
    along = (_X - 16) * np.cos(angle) + (_Y - 16) * np.sin(angle)
    return np.asarray(np.clip(along / 36 + 0.5, 0, 1))


TEXTURES: dict[str, Callable[[RandomState], Array]] = {
    "striped": _stripes,
    "dotted": _dots,
    "checkered": _checkers,
    "zigzag": _zigzag,
    "grid": _grid,
    "concentric": _rings,
    "faded": _fade,
    "speckled": lambda rng: (rng.random_sample((SIZE, SIZE)) < 0.3).astype(float),
    "cloudy": lambda rng: np.clip(_noise(rng, 5) * 2.4 - 0.7, 0, 1),
    "smooth": lambda rng: np.zeros((SIZE, SIZE)),
}
FILLS = ["solid", "striped", "dotted", "checkered"]


# Backgrounds: (3, 32, 32).


def _mix(rng: RandomState, low: tuple[float, ...], high: tuple[float, ...], share: Array) -> Array:
    return _blend(_tint(rng, low, 0.05), _tint(rng, high, 0.05), share)


def _bricks(rng: RandomState) -> Array:
    row = np.floor(_Y / 5)
    u, v = (_X + row % 2 * 5 + rng.randint(10)) % 10, _Y % 5
    return _mix(rng, (0.66, 0.30, 0.22), (0.80, 0.76, 0.70), np.clip(1.2 - np.minimum(u, v), 0, 1))


def _water(rng: RandomState) -> Array:
    wave = np.sin(_Y * 1.3 + np.sin(_X * 0.5 + rng.uniform(0, 6)) * 1.5 + rng.uniform(0, 6))
    return _mix(rng, (0.08, 0.30, 0.62), (0.35, 0.62, 0.86), wave * 0.5 + 0.5)


def _night(rng: RandomState) -> Array:
    stars = (rng.random_sample((SIZE, SIZE)) < 0.03).astype(float)
    return _mix(rng, (0.04, 0.05, 0.18), (0.95, 0.95, 0.80), stars)


def _wood(rng: RandomState) -> Array:
    grain = np.sin((_X + 6 * _noise(rng, 3)) * 1.1) * 0.5 + 0.5
    return _mix(rng, (0.50, 0.32, 0.16), (0.72, 0.52, 0.30), grain)


BACKGROUNDS: dict[str, Callable[[RandomState], Array]] = {
    "sky": lambda rng: _mix(rng, (0.35, 0.62, 0.95), (0.82, 0.92, 1.0), _Y / SIZE),
    "grass": lambda rng: _mix(
        rng, (0.16, 0.42, 0.10), (0.45, 0.75, 0.25), rng.random_sample((SIZE, SIZE))
    ),
    "sand": lambda rng: _mix(rng, (0.78, 0.66, 0.42), (0.93, 0.84, 0.62), _noise(rng, 14)),
    "bricks": _bricks,
    "night": _night,
    "water": _water,
    "wood": _wood,
    "snow": lambda rng: _mix(rng, (0.82, 0.87, 0.93), (1.0, 1.0, 1.0), _noise(rng, 6)),
    "paper": lambda rng: _mix(
        rng, (0.96, 0.95, 0.88), (0.45, 0.60, 0.85), (_Y % 6 < 1).astype(float)
    ),
    "tiles": lambda rng: _mix(
        rng, (0.62, 0.62, 0.66), (0.22, 0.22, 0.26), ((_X % 8 < 1) | (_Y % 8 < 1)).astype(float)
    ),
}


def _backdrop(rng: RandomState, name: str | None, against: Array) -> tuple[str, Array]:
    """Return a background by name; None picks one that contrasts with `against` (3, 1, 1)."""
    while True:
        pool = list(PLAIN) + (list(BACKGROUNDS) if rng.random_sample() < 0.6 else [])
        chosen = _pick(rng, pool, name)
        ground = BACKGROUNDS[chosen](rng) if chosen in BACKGROUNDS else _plain(rng, PLAIN[chosen])
        if name is not None or np.abs(ground.mean((1, 2)) - against[:, 0, 0]).max() > 0.25:
            return chosen, ground


def _where(background: str) -> str:
    return f"a {background} background" if background in PLAIN else background


def _say(rng: RandomState, *captions: str) -> list[str]:
    """Return the captions, one of them in the form of a prompt."""
    return [*captions, f"this is a photo of {captions[rng.randint(len(captions))]}"]


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


# Kinds.

_SPOTS = {
    1: [(16, 16)],
    2: [(9, 16), (23, 16)],
    3: [(9, 10), (23, 10), (16, 23)],
    4: [(9, 9), (23, 9), (9, 23), (23, 23)],
}


def _stamp(
    picture: Array,
    shape: Callable[[Array, Array], Array],
    spot: tuple[float, float, float, float],
    fill: Array,
) -> None:
    """Paint a shape at (x, y, radius, angle) with a thin dark rim.

    `fill` is (3, 32, 32) or (3, 1, 1).
    """
    x, y, radius, angle = spot
    distance = shape(*_local(x, y, radius, angle))
    _paint(picture, _cover(distance - 0.7 / radius, radius) * 0.55, np.zeros((3, 1, 1)))
    _paint(picture, _cover(distance, radius), fill)


def things(
    rng: RandomState,
    *,
    shape: str | None = None,
    color: str | None = None,
    fill: str | None = None,
    background: str | None = None,
    count: str | None = None,
    position: str | None = None,
) -> tuple[Array, list[str]]:
    """One to four shapes of one color and fill on a background."""
    shape, color = _pick(rng, SHAPES, shape), _pick(rng, COLORS, color)
    if fill is None:
        fill = _pick(rng, FILLS) if rng.random_sample() < 0.4 else "solid"
    tint = _tint(rng, COLORS[color])
    background, picture = _backdrop(rng, background, tint)
    if count is None:
        count = "one" if position or rng.random_sample() < 0.7 else _pick(rng, COUNTS)
    placed = count == "one" and (position is not None or rng.random_sample() < 0.3)
    number = COUNTS.index(count) + 1
    spots: list[tuple[float, float]] = list(_SPOTS[number])
    if placed:
        position = _pick(rng, POSITIONS, position)
        spots = [POSITIONS[position]]
    elif number > 1 and rng.random_sample() < 0.5:
        spots = [(y, x) for x, y in spots]
    largest = 13.0 if number == 1 and not placed else 7.5 if not placed else 8.0
    radius = rng.uniform(0.62, 1) * largest
    for x, y in spots:
        slack = max(0.0, (13.5 if number == 1 and not placed else 8) - radius) * (
            0.4 if placed else 0.8
        )
        at = (
            x + rng.uniform(-slack, slack),
            y + rng.uniform(-slack, slack),
            radius,
            rng.uniform(-0.3, 0.3),
        )
        paint = tint
        if fill != "solid":
            second = np.clip(tint * 0.35, 0, 1) if tint.mean() > 0.45 else 1 - (1 - tint) * 0.35
            paint = _blend(tint, second, TEXTURES[fill](rng))
        _stamp(picture, SHAPES[shape], at, paint)
    plural = shape if number == 1 else {"cross": "crosses"}.get(shape, f"{shape}s")
    adjective = f"{color} " if fill == "solid" else f"{fill} {color} "
    count_of = _a if number == 1 else lambda noun: f"{count} {noun}"
    captions = [
        f"{count_of(adjective + plural)} on {_where(background)}",
        count_of(f"{color} {plural}"),
        count_of(plural),
        f"something {color}",
    ]
    if background in BACKGROUNDS:
        captions.append(f"a picture of {background}")
    if number > 1 or rng.random_sample() < 0.3:
        captions.append(f"{count} {'object' if number == 1 else 'objects'}")
    if placed:
        captions += [f"something at the {position}", _a(f"{color} {shape} at the {position}")]
    if fill != "solid":
        captions.append(f"a {fill} {shape}")
    return picture, _say(rng, *captions)


def letters(rng: RandomState, *, letter: str | None = None) -> tuple[Array, list[str]]:
    """One capital letter or digit in one of several fonts: thin, bold, slanted, dot-matrix."""
    letter = _pick(rng, GLYPHS, letter)
    ink_name = _pick(rng, COLORS) if rng.random_sample() < 0.5 else "white"
    ink = _tint(rng, COLORS[ink_name])
    _, picture = _backdrop(rng, None, ink)
    height = rng.uniform(17, 25)
    unit_x, unit_y = height * rng.uniform(0.13, 0.19), height / 6
    thick = rng.uniform(0.8, 1.2) if rng.random_sample() < 0.4 else rng.uniform(1.3, 2.4)
    slant, turn = rng.uniform(-0.15, 0.35) * (rng.random_sample() < 0.6), rng.uniform(-0.12, 0.12)
    left = 16 - 2 * unit_x + rng.uniform(-3, 3)
    top = 16 - 3 * unit_y + rng.uniform(-2, 2)
    distance = np.full((SIZE, SIZE), 99.0)
    for polyline in GLYPHS[letter]:
        points = np.array(polyline, dtype=float) + rng.uniform(-0.18, 0.18, (len(polyline), 2))
        x = left + points[:, 0] * unit_x + (3 - points[:, 1]) * unit_y * slant
        y = top + points[:, 1] * unit_y
        x, y = (
            16 + (x - 16) * np.cos(turn) - (y - 16) * np.sin(turn),
            16 + (y - 16) * np.cos(turn) + (x - 16) * np.sin(turn),
        )
        for (x1, y1), (x2, y2) in zip(
            zip(x, y, strict=True), zip(x[1:], y[1:], strict=True), strict=False
        ):
            dx, dy = x2 - x1, y2 - y1
            along = np.clip(((_X - x1) * dx + (_Y - y1) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
            distance = np.minimum(distance, np.hypot(_X - x1 - along * dx, _Y - y1 - along * dy))
    mask = _cover(distance - thick, 1)
    if (
        rng.random_sample() < 0.35
    ):  # dot-matrix: the picture of a display, or of a scan, with coarse pixels
        coarse = (
            mask.reshape(8, 4, 8, 4).mean((1, 3))
            if rng.random_sample() < 0.6
            else mask.reshape(16, 2, 16, 2).mean((1, 3))
        )
        mask = np.kron(
            np.clip(coarse * 1.3, 0, 1), np.ones((SIZE // len(coarse), SIZE // len(coarse)))
        )
    _paint(picture, mask, ink)
    noun = "digit" if letter.isdigit() else "letter"
    captions = [
        f"the {noun} {letter.lower()}",
        f"the {noun} {letter.lower()} in {ink_name}",
        f"{_a(ink_name)} {noun}",
    ]
    return picture, _say(rng, *captions)


def textures(rng: RandomState, *, texture: str | None = None) -> tuple[Array, list[str]]:
    """A full-frame pattern in two colors."""
    texture = _pick(rng, TEXTURES, texture)
    first, second = rng.choice(list(COLORS), 2, replace=False)
    low, high = _tint(rng, COLORS[first]), _tint(rng, COLORS[second])
    picture = _blend(low, high, TEXTURES[texture](rng))
    captions = [
        f"{_a(texture)} texture",
        f"{_a(texture)} {first} surface"
        if texture == "smooth"
        else f"{_a(texture)} texture in {first} and {second}",
    ]
    return picture, _say(rng, *captions)


def polygons(rng: RandomState, *, polygon: str | None = None) -> tuple[Array, list[str]]:
    """One large plain figure of geometry, at any angle."""
    polygon, color = _pick(rng, POLYGONS, polygon), _pick(rng, COLORS)
    tint = _tint(rng, COLORS[color])
    _, picture = _backdrop(rng, _pick(rng, PLAIN), tint)
    radius = rng.uniform(9, 14)
    slack = 14.5 - radius
    x, y = 16 + rng.uniform(-slack, slack), 16 + rng.uniform(-slack, slack)
    _stamp(picture, POLYGONS[polygon], (x, y, radius, rng.uniform(-0.35, 0.35)), tint)
    return picture, _say(
        rng, f"{_a(polygon)}", _a(f"{color} {polygon}"), f"{_a(polygon)}, a geometric figure"
    )


def arrows(rng: RandomState, *, direction: str | None = None) -> tuple[Array, list[str]]:
    """One arrow pointing in one of eight directions."""
    direction, color = _pick(rng, DIRECTIONS, direction), _pick(rng, COLORS)
    tint = _tint(rng, COLORS[color])
    _, picture = _backdrop(rng, None, tint)
    angle = DIRECTIONS.index(direction) * np.pi / 4 + rng.uniform(-0.2, 0.2)
    at = (16 + rng.uniform(-3, 3), 16 + rng.uniform(-3, 3), rng.uniform(9, 13), angle)
    _stamp(picture, _arrow, at, tint)
    return picture, _say(
        rng, f"an arrow pointing {direction}", _a(f"{color} arrow pointing {direction}"), "an arrow"
    )


DIRECTIONS = [
    "right",
    "lower right",
    "down",
    "lower left",
    "left",
    "upper left",
    "up",
    "upper right",
]


def faces(rng: RandomState, *, mood: str | None = None) -> tuple[Array, list[str]]:
    """A round face in one of six moods."""
    mood = _pick(rng, MOODS, mood)
    skin_name = _pick(rng, ["yellow", "orange", "pink", "white", "brown", "green"])
    skin = _tint(rng, COLORS[skin_name])
    _, picture = _backdrop(rng, None, skin)
    radius = rng.uniform(11, 14.5)
    x, y = 16 + rng.uniform(-1.5, 1.5), 16 + rng.uniform(-1.5, 1.5)
    _stamp(picture, SHAPES["circle"], (x, y, radius, 0), skin)
    u, v = _local(x, y, radius, rng.uniform(-0.12, 0.12))
    ink = _tint(rng, (0.08, 0.06, 0.06), 0.05)
    wide = rng.uniform(0.85, 1.15)
    for side in (-1, 1):
        eye = _disc(u - side * 0.36 * wide, v + 0.28, 0.13)
        if mood == "sleepy" or (mood == "winking" and side == 1):
            eye = _box(u - side * 0.36 * wide, v + 0.28, 0.2, 0.06)
        if mood == "angry":
            brow = np.maximum(
                np.abs(u - side * 0.38) - 0.26,
                np.abs(v + 0.52 + side * (u - side * 0.38) * 0.7) - 0.07,
            )
            eye = np.minimum(eye, brow)
        _paint(picture, _cover(eye, radius), ink)
    curve = {"happy": 1, "winking": 1, "sad": -1, "angry": -1}.get(mood, 0)
    if mood == "surprised":
        mouth = np.hypot(u, (v - 0.4) * 0.8) - 0.22
    elif mood == "sleepy":
        mouth = _box(u, v - 0.4, 0.22, 0.07)
    else:
        arc = np.abs(np.hypot(u, v - 0.38 + curve * 0.32) - 0.42 * wide) - 0.08
        mouth = np.maximum(arc, -(v - 0.34 - curve * 0.02) * curve)
    _paint(picture, _cover(mouth, radius), ink)
    return picture, _say(rng, f"{_a(mood)} face", f"{_a(mood)} {skin_name} face", "a face")


MOODS = ["happy", "sad", "angry", "surprised", "sleepy", "winking"]


def flags(rng: RandomState, *, pattern: str | None = None) -> tuple[Array, list[str]]:
    """A flag in two colors, in one of ten patterns."""
    pattern = _pick(rng, FLAGS, pattern)
    first, second = rng.choice(list(COLORS), 2, replace=False)
    low, high = _tint(rng, COLORS[first]), _tint(rng, COLORS[second])
    _, picture = _backdrop(rng, _pick(rng, ["sky", "gray", "black"]), low)
    width, height = rng.uniform(12.5, 15), rng.uniform(9, 12)
    x, y = 16 + rng.uniform(-1, 1), 16 + rng.uniform(-2.5, 2.5)
    u, v = (_X - x) / width, (_Y - y) / height
    v = v + np.sin(u * 3 + rng.uniform(0, 6)) * 0.05
    distance = FLAGS[pattern](u, v)
    cloth = _blend(low, high, _cover(distance, 10))
    _paint(picture, _cover(np.maximum(np.abs(u) - 1, np.abs(v) - 1), 10), cloth)
    return picture, _say(
        rng, f"a flag with {pattern}", f"{_a(first)} and {second} flag with {pattern}", "a flag"
    )


FLAGS: dict[str, Callable[[Array, Array], Array]] = {
    "a horizontal band": lambda u, v: np.abs(v) - 0.34,
    "a vertical band": lambda u, v: np.abs(u) - 0.34,
    "a cross": lambda u, v: np.minimum(np.abs(u + 0.2) - 0.17, np.abs(v) - 0.22),
    "a saltire": lambda u, v: np.minimum(np.abs(u - v), np.abs(u + v)) / 1.4 - 0.17,
    "a disc": lambda u, v: np.hypot(u * 1.25, v) - 0.58,
    "a diagonal": lambda u, v: (u + v) / 1.4,
    "a border": lambda u, v: 0.62 - np.maximum(np.abs(u), np.abs(v)),
    "a triangle": lambda u, v: (u + 1) * 0.7 + np.abs(v) - 0.9,
    "quarters": lambda u, v: np.minimum(np.maximum(u, v), np.maximum(-u, -v)),
    "many stripes": lambda u, v: np.sin(v * 3 * np.pi + 1.5) * 0.18,
}


def _land(
    rng: RandomState,
    sky: tuple[float, ...],
    haze: tuple[float, ...],
    ground: tuple[float, ...],
    horizon: float,
) -> Array:
    picture = _mix(rng, sky, haze, np.clip(_Y / horizon, 0, 1))
    _paint(
        picture, (_Y > horizon).astype(float), _tint(rng, ground) * (0.85 + 0.3 * _noise(rng, 10))
    )
    return np.clip(picture, 0, 1)


def _sun(rng: RandomState, picture: Array, rgb: tuple[float, ...], y: float, radius: float) -> None:
    _paint(picture, _cover(np.hypot(_X - rng.uniform(7, 25), _Y - y) - radius, 1), _tint(rng, rgb))


def _beach(rng: RandomState) -> Array:
    picture = _land(
        rng, (0.40, 0.70, 0.98), (0.80, 0.92, 1.0), (0.92, 0.83, 0.58), 21 + rng.uniform(-2, 2)
    )
    _paint(
        picture,
        ((_Y > 13) & (_Y < 20 + np.sin(_X * 0.4 + rng.uniform(0, 6)))).astype(float),
        _tint(rng, (0.10, 0.45, 0.75)),
    )
    _sun(rng, picture, (1.0, 0.95, 0.5), rng.uniform(4, 7), 2.8)
    return picture


def _mountains(rng: RandomState) -> Array:
    picture = _land(rng, (0.50, 0.72, 0.95), (0.85, 0.92, 0.98), (0.30, 0.50, 0.25), 25)
    for x in (rng.uniform(4, 12), rng.uniform(18, 28)):
        peak, slope = rng.uniform(5, 11), rng.uniform(1.0, 1.5)
        face = np.clip(_Y - peak - np.abs(_X - x) * slope, 0, 1) * (_Y < 25)
        _paint(picture, face, _tint(rng, (0.42, 0.40, 0.44)))
        _paint(picture, face * (_Y < peak + 5), np.ones((3, 1, 1)))
    return picture


def _city(rng: RandomState) -> Array:
    picture = _land(rng, (0.60, 0.68, 0.80), (0.85, 0.85, 0.85), (0.30, 0.30, 0.32), 27)
    left = 0
    while left < SIZE:
        width, top = rng.randint(4, 8), rng.uniform(5, 18)
        tower = (_X > left) & (_X < left + width) & (_Y > top) & (_Y < 28)
        _paint(picture, tower.astype(float), _tint(rng, (0.35, 0.36, 0.42), 0.12))
        lights = tower & (_X.astype(int) % 2 == 0) & (_Y.astype(int) % 3 == 0)
        _paint(picture, lights.astype(float), _tint(rng, (0.98, 0.90, 0.45)))
        left += width
    return picture


def _forest(rng: RandomState) -> Array:
    picture = _land(rng, (0.60, 0.80, 0.92), (0.85, 0.93, 0.95), (0.22, 0.38, 0.14), 24)
    for x in np.sort(rng.uniform(0, 32, 7)):
        top, foot = rng.uniform(4, 11), rng.uniform(25, 30)
        _paint(
            picture,
            ((np.abs(_X - x) < 0.9) & (_Y > top) & (_Y < foot + 2)).astype(float),
            _tint(rng, (0.35, 0.22, 0.10)),
        )
        tree = np.clip((_Y - top) * 0.28 - np.abs(_X - x), 0, 1) * (_Y < foot - 2)
        _paint(picture, tree, _tint(rng, (0.08, 0.36, 0.14)))
    return picture


def _desert(rng: RandomState) -> Array:
    picture = _land(rng, (0.55, 0.75, 0.95), (0.98, 0.90, 0.75), (0.88, 0.68, 0.36), 32)
    for base, shade in ((17, 0.9), (22, 1.0)):
        dune = base + 3 * np.sin(_X * rng.uniform(0.15, 0.3) + rng.uniform(0, 6))
        _paint(
            picture,
            np.clip(_Y - dune, 0, 1),
            _tint(rng, (0.90 * shade, 0.70 * shade, 0.38 * shade)),
        )
    x, foot = rng.uniform(6, 26), 26
    cactus = np.minimum(_box(_X - x, _Y - foot + 5, 1.2, 6), _box(_X - x, _Y - foot + 5, 3.5, 1.0))
    _paint(picture, _cover(cactus, 1), _tint(rng, (0.15, 0.45, 0.15)))
    return picture


def _moonlight(rng: RandomState) -> Array:
    picture = _night(rng)
    _sun(rng, picture, (0.95, 0.95, 0.85), rng.uniform(6, 11), rng.uniform(3, 4.5))
    _paint(
        picture,
        np.clip(_Y - 26 - 2 * np.sin(_X * 0.3 + rng.uniform(0, 6)), 0, 1),
        _tint(rng, (0.05, 0.10, 0.08), 0.03),
    )
    return picture


def _sunset(rng: RandomState) -> Array:
    picture = _mix(rng, (0.45, 0.20, 0.50), (1.0, 0.60, 0.20), np.clip(_Y / 22, 0, 1))
    _sun(rng, picture, (1.0, 0.85, 0.35), rng.uniform(17, 20), rng.uniform(4, 6))
    _paint(picture, (_Y > 22).astype(float), _tint(rng, (0.25, 0.12, 0.25)))
    return picture


def _house(rng: RandomState) -> Array:
    picture = _land(rng, (0.50, 0.75, 0.98), (0.85, 0.93, 1.0), (0.30, 0.58, 0.22), 24)
    x, half = rng.uniform(12, 20), rng.uniform(6, 9)
    _paint(picture, _cover(_box(_X - x, _Y - 21, half, 6), 1), _tint(rng, (0.92, 0.86, 0.72), 0.1))
    roof = np.maximum((np.abs(_X - x) - (_Y - 7) * 1.2) / 1.5, _Y - 15.5)
    _paint(picture, _cover(roof, 1), _tint(rng, (0.70, 0.22, 0.18), 0.1))
    _paint(picture, _cover(_box(_X - x, _Y - 24, 1.6, 3.2), 1), _tint(rng, (0.35, 0.22, 0.12)))
    for side in (-1, 1):
        _paint(
            picture,
            _cover(_box(_X - x - side * half * 0.6, _Y - 19, 1.4, 1.4), 1),
            _tint(rng, (0.55, 0.75, 0.95)),
        )
    return picture


def _road(rng: RandomState) -> Array:
    horizon = rng.uniform(11, 14)
    picture = _land(rng, (0.55, 0.75, 0.95), (0.88, 0.93, 0.98), (0.36, 0.56, 0.26), horizon)
    x = rng.uniform(12, 20)
    depth = np.clip((_Y - horizon) / (32 - horizon), 0, 1)
    _paint(
        picture,
        _cover(np.abs(_X - x) - 1 - depth * 13, 1) * (_Y > horizon),
        _tint(rng, (0.28, 0.28, 0.30)),
    )
    line = (np.abs(_X - x) < 0.4 + depth) & (_Y > horizon) & (np.floor(_Y / 3) % 2 == 0)
    _paint(picture, line.astype(float), _tint(rng, (0.95, 0.93, 0.80)))
    return picture


def _ship(rng: RandomState) -> Array:
    picture = _land(rng, (0.55, 0.78, 0.98), (0.88, 0.95, 1.0), (0.5, 0.5, 0.5), 32)
    _paint(picture, (_Y > 19).astype(float), _water(rng))
    x = rng.uniform(11, 21)
    hull = np.maximum(np.maximum(17 - _Y, _Y - 21.5), np.abs(_X - x) - 9 + (_Y - 17) * 0.9)
    _paint(picture, _cover(hull, 1), _tint(rng, (0.50, 0.20, 0.14), 0.1))
    sail = np.maximum(
        np.maximum(5 - _Y, _Y - 16), np.maximum(x + 0.5 - _X, _X - x - (_Y - 5) * 0.65)
    )
    _paint(picture, _cover(sail, 1), _tint(rng, (0.95, 0.95, 0.92)))
    _paint(picture, _cover(_box(_X - x, _Y - 11, 0.6, 6.5), 1), _tint(rng, (0.25, 0.15, 0.08)))
    return picture


SCENES: dict[str, Callable[[RandomState], Array]] = {
    "a beach": _beach,
    "mountains": _mountains,
    "a city": _city,
    "a forest": _forest,
    "a desert": _desert,
    "a moonlit night": _moonlight,
    "a sunset": _sunset,
    "a house": _house,
    "a road": _road,
    "a ship at sea": _ship,
}


def scenes(rng: RandomState, *, scene: str | None = None) -> tuple[Array, list[str]]:
    """A landscape with something in it."""
    scene = _pick(rng, SCENES, scene)
    return np.clip(SCENES[scene](rng), 0, 1), _say(rng, f"a scene of {scene}", scene)


def cells(rng: RandomState, *, tissue: str | None = None) -> tuple[Array, list[str]]:
    """A stained slide: healthy tissue has small even nuclei, a tumor large crowded ones."""
    tissue = _pick(rng, TISSUES, tissue)
    tumor = tissue == "tumor tissue"
    picture = _mix(rng, (0.93, 0.72, 0.82), (0.98, 0.86, 0.92), _noise(rng, 8))
    for _ in range(rng.randint(9, 15) if tumor else rng.randint(6, 12)):
        x, y = (rng.normal(16, 6, 2) if tumor else rng.uniform(1, 31, 2)).tolist()
        radius = rng.uniform(2.2, 3.8) if tumor else rng.uniform(1.5, 2.3)
        u, v = _local(x, y, radius, rng.uniform(0, np.pi))
        stain = _tint(rng, (0.36, 0.12, 0.50) if tumor else (0.46, 0.26, 0.62), 0.08)
        _paint(
            picture,
            _cover(np.hypot(u, v * (rng.uniform(1, 1.7) if tumor else 1.1)) - 1, radius) * 0.9,
            stain,
        )
    return picture, _say(rng, f"a slide of {tissue}", f"{tissue} under the microscope")


TISSUES = ["healthy tissue", "tumor tissue"]

#: Every kind with its share of the pre-training pictures.
KINDS: dict[Kind, float] = {
    things: 0.46,
    letters: 0.16,
    polygons: 0.08,
    arrows: 0.06,
    faces: 0.05,
    flags: 0.06,
    textures: 0.05,
    scenes: 0.06,
    cells: 0.02,
}


def to_uint8(picture: Array) -> NDArray[np.uint8]:
    """Return the picture (3, 32, 32) in [0, 1] as bytes."""
    return np.asarray(np.floor(np.clip(picture, 0, 1) * 255 + 0.5), dtype=np.uint8)
