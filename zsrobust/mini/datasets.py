"""The 16 datasets of the mini suite: 15 drawn from the embedded world, one of real handwriting.

The model was pre-trained on the same kinds of pictures, drawn from other seeds. `mini_train` is the
narrow target dataset of fine-tuning, and `mini_objects` is the target of the second series. Both
have a training split.
"""

from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path

import numpy as np
from numpy.random import RandomState

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Dataset, Images, Split, datasets
from zsrobust.mini import world
from zsrobust.mini.glyphs import GLYPHS

NO_TRAINING = ZSRobustError(
    "Of the mini suite, mini_train and mini_objects have a training split: train_on=mini_train."
)
#: All files of this package that images depend on.
FILES = tuple(
    Path(__file__).with_name(name)
    for name in ("datasets.py", "world.py", "glyphs.py", "handwriting.npz")
)
TRAIN_COLORS = ["red", "yellow", "green", "blue", "white"]
TRAIN_SHAPES = ["circle", "square", "triangle", "star", "cross"]
#: Captions of the world's pictures that describe a thing: synonyms of the first, the prompt.
SYNONYMS = (
    "this is a photo of a {}",
    "a {}",
    "a {} on a black background",
    "a {} on a gray background",
    "a {} on a light background",
)

#: Descriptions around the prompts of the other datasets, whose captions have fewer synonyms.
FRAMES = (
    "this is a photo of {}",
    "{}",
    "a picture of {}",
    "{} on a black background",
    "{} on a gray background",
)


@dataclass(frozen=True)
class Drawn:
    """Pictures of one kind, balanced over classes. A class fixes some attributes of the kind."""

    kind: world.Kind
    classes: tuple[dict[str, str], ...]
    seed: int
    sizes: dict[Split, int]

    def __call__(self, split: Split) -> Images:
        """Return the images of a split; raises ZSRobustError if the split is missing."""
        if split not in self.sizes:
            raise NO_TRAINING
        rng = RandomState([self.seed, ("test", "train").index(split)])
        labels = np.arange(self.sizes[split], dtype=np.int64) % len(self.classes)
        pictures = [world.to_uint8(self.kind(rng, **self.classes[label])[0]) for label in labels]
        return Images(pixels=np.stack(pictures), labels=labels)


def handwriting(split: Split) -> Images:
    """Return 500 scanned digits, the first 50 of each, enlarged from 8x8 to 32x32 pixels.

    They come from the 1,797 digits of the UCI Optical Recognition set: Alpaydin & Kaynak (1998),
    https://doi.org/10.24432/C50P49, CC BY 4.0. Raises ZSRobustError for the training split.
    """
    if split == "train":
        raise NO_TRAINING
    with (
        resources.files(__package__).joinpath("handwriting.npz").open("rb") as file,
        np.load(file) as stored,
    ):
        scans, labels = stored["scans"], stored["labels"].astype(np.int64)
    pixels = np.floor(scans * (255 / 16) + 0.5).astype(np.uint8)
    pixels = pixels.repeat(4, axis=1).repeat(4, axis=2)
    return Images(pixels=np.repeat(pixels[:, None], 3, axis=1), labels=labels)


def _each(attribute: str, values: list[str], **fixed: str) -> tuple[dict[str, str], ...]:
    return tuple({attribute: value, **fixed} for value in values)


def _draw(
    name: str,
    group: str,
    kind: world.Kind,
    classes: tuple[dict[str, str], ...],
    names: list[str],
    template: str,
    size: int,
    train: int = 0,
) -> None:
    """Register a dataset of pictures; `names` are the class names."""
    title = name.removeprefix("mini_").capitalize()
    sizes: dict[Split, int] = {"test": size, "train": train} if train else {"test": size}
    # The bytes of the name give each dataset its own seed, far from the seeds of pre-training.
    load = Drawn(kind, classes, int.from_bytes(name.encode(), "big") % (2**31 - 1), sizes)
    about = f"{(kind.__doc__ or '').splitlines()[0]} Drawn by zsrobust.mini.world."
    datasets.register(name)(
        Dataset(
            title=title,
            group=group,
            about=about,
            classes=tuple(names),
            templates=(template,),
            size=size,
            side=world.SIZE,
            load=load,
            files=FILES,
            train_size=train or None,
            describe=(lambda: _synonyms(names)) if train else (lambda: _framed(names, template)),
            may_be_shown=True,
        )
    )


def _synonyms(names: list[str]) -> list[list[str]]:
    articles = ["an" if name[0] in "aeiou" else "a" for name in names]
    return [
        [synonym.replace("a {}", f"{article} {name}") for synonym in SYNONYMS]
        for article, name in zip(articles, names, strict=True)
    ]


def _framed(names: list[str], template: str) -> list[list[str]]:
    prompts = [template.replace("{}", name).removeprefix("this is a photo of ") for name in names]
    return [[frame.replace("{}", prompt) for frame in FRAMES] for prompt in prompts]


SHAPES, COLORS, FLAGS = list(world.SHAPES), list(world.COLORS), list(world.FLAGS)
LETTERS = [glyph for glyph in GLYPHS if glyph.isalpha()]
DIRECTIONS = list(world.DIRECTIONS)
PAIRS = list(product(COLORS, SHAPES))
TRAIN_PAIRS = list(product(TRAIN_COLORS, TRAIN_SHAPES))

# The order and the groups are those of the paper's columns.
_draw(
    "mini_shapes",
    "general",
    world.things,
    _each("shape", SHAPES),
    SHAPES,
    "this is a photo of a {}",
    300,
)
_draw("mini_colors", "general", world.things, _each("color", COLORS), COLORS, "something {}", 300)
_draw(
    "mini_objects",
    "general",
    world.things,
    tuple({"color": c, "shape": s, "count": "one"} for c, s in PAIRS),
    [f"{color} {shape}" for color, shape in PAIRS],
    "this is a photo of a {}",
    400,
    train=2000,
)
_draw(
    "mini_backgrounds",
    "scene",
    world.things,
    _each("background", list(world.BACKGROUNDS)),
    list(world.BACKGROUNDS),
    "a picture of {}",
    300,
)
_draw(
    "mini_letters",
    "general",
    world.letters,
    _each("letter", LETTERS),
    [x.lower() for x in LETTERS],
    "the letter {}",
    390,
)
_draw(
    "mini_faces",
    "fine-grained",
    world.faces,
    _each("mood", world.MOODS),
    world.MOODS,
    "a {} face",
    300,
)
_draw(
    "mini_flags", "fine-grained", world.flags, _each("pattern", FLAGS), FLAGS, "a flag with {}", 300
)
_draw(
    "mini_textures",
    "domain-specific",
    world.textures,
    _each("texture", list(world.TEXTURES)),
    list(world.TEXTURES),
    "a {} texture",
    300,
)
_draw(
    "mini_scenes",
    "scene",
    world.scenes,
    _each("scene", list(world.SCENES)),
    list(world.SCENES),
    "a scene of {}",
    300,
)
_draw(
    "mini_arrows",
    "fine-grained",
    world.arrows,
    _each("direction", DIRECTIONS),
    DIRECTIONS,
    "an arrow pointing {}",
    304,
)
_draw(
    "mini_train",
    "general",
    world.things,
    tuple({"color": c, "shape": s, "count": "one", "fill": "solid"} for c, s in TRAIN_PAIRS),
    [f"{color} {shape}" for color, shape in TRAIN_PAIRS],
    "this is a photo of a {}",
    400,
    train=2000,
)
_draw(
    "mini_counts",
    "general",
    world.things,
    _each("count", world.COUNTS),
    ["one object", "two objects", "three objects", "four objects"],
    "{}",
    300,
)
_draw(
    "mini_positions",
    "domain-specific",
    world.things,
    _each("position", list(world.POSITIONS)),
    list(world.POSITIONS),
    "something at the {}",
    297,
)
_draw(
    "mini_polygons",
    "fine-grained",
    world.polygons,
    _each("polygon", list(world.POLYGONS)),
    list(world.POLYGONS),
    "a {}, a geometric figure",
    300,
)
datasets.register("mini_handwriting")(
    Dataset(
        title="Handwriting",
        group="domain-specific",
        about="Real scanned digits of the UCI Optical Recognition set; "
        "the model has never seen handwriting.",
        classes=tuple("0123456789"),
        templates=("the digit {}",),
        size=500,
        side=32,
        load=handwriting,
        files=FILES,
        describe=lambda: _framed(list("0123456789"), "the digit {}"),
        may_be_shown=True,
    )
)
_draw(
    "mini_cells",
    "medical",
    world.cells,
    _each("tissue", world.TISSUES),
    world.TISSUES,
    "a slide of {}",
    300,
)
