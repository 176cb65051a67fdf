"""Datasets: parquet, tar and zip of the hub, pictures, the prepared cache, and local copies."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz_inputs import damaged, edited, inputs, judge
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import layouts as copies
from hubserver import parquet, png, wds, zipped

from zsrobust.datasets import Cut, cache
from zsrobust.datasets.sources import formats
from zsrobust.datasets.sources.hub import HubSource
from zsrobust.datasets.sources.layouts import LAYOUTS, open_folder
from zsrobust.datasets.sources.records import Opened, Record

PICTURES = [(index % 3, png(index)) for index in range(7)]
NAMES = ["cat", "dog", "owl"]
REVISION = "0" * 40
SHARDS = wds(PICTURES, NAMES)


def source(kind: str) -> HubSource:
    return HubSource(
        repo="a/b",
        revision=REVISION,
        format=kind,
        test=("test",),
        label="label" if kind == "parquet" else "cls",
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def read(kind: str, paths: list[Path]) -> None:
    opened = formats.read(source(kind), "test", paths)
    for record in opened.records:
        assert isinstance(record.image, bytes)


PARQUET = [
    parquet(PICTURES, NAMES),
    parquet(PICTURES, None, struct=False),
    parquet([(True, png(0)), (False, png(1))], None),
]


@inputs(4_000)
@given(content=damaged(PARQUET))
def test_parquet(content, place):
    (place / "test.parquet").write_bytes(content)
    judge("parquet", lambda: read("parquet", [place / "test.parquet"]))


@inputs(5_000)
@given(
    content=damaged([SHARDS["test/0.tar"]]),
    names=damaged([SHARDS["classnames.txt"]]),
    count=damaged([b"1", b"1\n"]),
)
def test_tar(content, names, count, place):
    for name, each in {
        "test/0.tar": content,
        "classnames.txt": names,
        "test/nshards.txt": count,
    }.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(each)
    judge(
        "tar",
        lambda: read(
            "tar", [place / "classnames.txt", place / "test/nshards.txt", place / "test/0.tar"]
        ),
    )
    judge("tar", lambda: read("tar", [place / "test/0.tar"]))


@inputs(3_000)
@given(content=damaged([zipped([(NAMES[label], content) for label, content in PICTURES])]))
def test_zip(content, place):
    (place / "test.zip").write_bytes(content)
    judge("zip", lambda: read("zip", [place / "test.zip"]))


def encoded(kind: str, size: tuple[int, int] = (9, 7), mode: str = "RGB", **how) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer := io.BytesIO(), kind, **how)
    return buffer.getvalue()


ENCODED = [
    *(encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")),
    encoded("JPEG", mode="CMYK"),
    encoded("PNG", mode="P"),
    encoded("PNG", mode="LA"),
    encoded("PNG", mode="1"),
    encoded("TIFF", compression="tiff_lzw"),
    encoded("JPEG", progressive=True),
    encoded("WEBP", lossless=True),
    encoded("PNG", (900, 1)),
]


def prepare(folder: Path, contents: list[bytes], side: int | None, cut: Cut) -> None:
    records = (Record(f"image {index}", content, 0) for index, content in enumerate(contents))
    cache.write(
        folder,
        Opened(None, records),
        lambda record: 0,
        size=len(contents),
        side=side,
        cut=cut,
        about={"dataset": "d", "split": "test", "source": "s"},
        progress=lambda done, total: None,
    )
    cache.read(folder)


cuts = st.builds(
    Cut,
    st.just(4),
    st.sampled_from([1.0, 1.5]),
    st.sampled_from(["bicubic", "bilinear"]),
    st.booleans(),
)


@inputs(1_500)
@given(
    contents=st.lists(damaged(ENCODED), min_size=4, max_size=4),
    side=st.sampled_from([None, None, 9]),
    cut=cuts,
)
def test_pictures(contents, side, cut, place):
    for content in contents:  # one alone, so that another's trouble does not hide its own
        judge("pictures", lambda content=content: prepare(place / "cut", [content], side, cut))
        cache.shutil.rmtree(place / "cut", ignore_errors=True)


@pytest.fixture(scope="module")
def split(place):
    prepare(place / "split", [ENCODED[0]] * 3, None, Cut(4))
    return place / "split"


ABOUT = {
    "format": cache.FORMAT,
    "dataset": "d",
    "split": "test",
    "source": "s",
    "images": 3,
    "digest": "0" * 64,
    "cut": {"side": 4, "zoom": 1.0, "interpolation": "bicubic", "squash": False},
}


@inputs(4_000)
@given(data=st.data())
def test_prepared(data, split):
    files = {
        name: (split / name).read_bytes() for name in ("about.json", "pixels.npy", "labels.npy")
    }
    name = data.draw(st.sampled_from([*files, "values"]))
    if name == "values":
        (split / "about.json").write_text(json.dumps(data.draw(edited(ABOUT))))
    else:
        (split / name).write_bytes(data.draw(damaged([files[name]])))
    found = judge("prepared cache", lambda: cache.read(split))
    if found is not None:
        assert np.asarray(found.pixels[:1]).dtype == np.uint8
    for each, content in files.items():
        (split / each).unlink()
        (split / each).write_bytes(content)


SIDES = {"cifar10": 32, "cifar100": 32, "stl10": 96, "pcam": 96}
TEXTS = [
    "cifar10",
    "cifar100",
    "stl10",
    "sun397",
    "food101",
    "oxford_pets",
    "dtd",
    "fgvc_aircraft",
    "tiny_imagenet",
]
MATLAB, HDF5 = ["flowers102", "stanford_cars"], ["pcam"]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A tiny copy of every dataset whose annotations are files."""
    root = tmp_path_factory.mktemp("root")
    for name in [*TEXTS, *MATLAB, *HDF5]:
        side = SIDES.get(name, 8)
        pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
        copies.build(
            name, root, [(label, pixels[label]) for label in (0, 1, 0)], ["n01443537", "n01629819"]
        )
    return root


def damage(data, name: str, local: Path) -> None:
    folder = local / LAYOUTS[name].folder
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() not in (".jpg", ".jpeg", ".png")
    )
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    path.write_bytes(data.draw(damaged([before])))
    try:
        kind = ".mat" if name in MATLAB else ".h5" if name in HDF5 else "text, JSON, pickle"
        judge(f"local copies, {kind}", lambda: walk(name, folder))
    finally:
        path.unlink()
        path.write_bytes(before)


def walk(name: str, folder: Path) -> None:
    for record in LAYOUTS[name].read(folder, "test").records:
        if isinstance(record.image, Path):
            assert record.image.absolute().is_relative_to(folder.absolute())
            assert ".." not in record.image.parts


@inputs(4_000)
@given(data=st.data(), name=st.sampled_from(TEXTS))
def test_local_copies(data, name, local):
    damage(data, name, local)


@inputs(400)  # each in a process of its own, which scipy takes down in some
@given(data=st.data(), name=st.sampled_from(MATLAB))
def test_local_copies_with_matlab_files(data, name, local):
    pytest.importorskip("scipy")
    damage(data, name, local)


@inputs(2_000)
@given(data=st.data(), name=st.sampled_from(HDF5))
def test_local_copies_with_hdf5_files(data, name, local):
    pytest.importorskip("h5py")
    damage(data, name, local)


@inputs(200)
@given(
    name=st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20),
    content=damaged(ENCODED),
)
def test_folders_of_any_name(name, content, place):
    folder = place / "folders" / name
    if name in (".", ".."):
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0.png").write_bytes(content)
    judge("folders", lambda: list(open_folder(place / "folders").records))
    cache.shutil.rmtree(place / "folders")
