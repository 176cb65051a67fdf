import os
import pickle
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torchvision.datasets as torchvision
from layouts import build, dump, refolder, save
from PIL import Image

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets.sources.layouts import LAYOUTS, open_folder

NAMES = {
    "cifar10": ["airplane", "automobile", "bird"],
    "cifar100": ["apple", "aquarium_fish", "baby"],
    "stl10": ["airplane", "bird", "car"],
    "sun397": ["abbey", "jail/indoor", "jail_cell"],
    "food101": ["apple_pie", "cheese_plate", "cheesecake"],
    "oxford_pets": ["Abyssinian", "American Bulldog", "american pit bull terrier"],
    "flowers102": ["pink primrose", "hard-leaved pocket orchid", "canterbury bells"],
    "dtd": ["banded", "blotchy", "polka-dotted"],
    "eurosat": ["AnnualCrop", "Forest", "River"],
    "fgvc_aircraft": ["707-320", "DH-82", "F-16A/B"],
    "tiny_imagenet": ["n01443537", "n01629819", "n01641577"],
    "imagenet": ["n01440764", "n01443537", "n01484850"],
    "caltech101": ["Faces", "Leopards", "accordion"],
    "caltech256": ["001.ak47", "002.american-flag", "003.backpack"],
    "stanford_cars": [
        "AM General Hummer SUV 2000",
        "Ram C/V Cargo Van Minivan 2012",
        "smart fortwo Convertible 2012",
    ],
    "pcam": ["healthy", "tumor"],
}
NAMELESS = ("flowers102", "pcam")
SIDES = {"cifar10": 32, "cifar100": 32}
every_layout = pytest.mark.parametrize("name", LAYOUTS)


def pictures(name):
    """Two images of each class, out of order; each of four colors, of which the second names the image."""
    classes = len(NAMES[name])
    images = []
    for index in range(2 * classes):
        picture = np.zeros((2, 2, 3), dtype=np.uint8)
        picture[0, 1], picture[1, 0], picture[1, 1] = (
            (40 * index, 250 - 40 * index, 90),
            (0, 128, 0),
            (0, 0, 255),
        )
        half = SIDES.get(name, 96) // 2
        images.append(
            (index * (classes - 1) % classes, picture.repeat(half, axis=0).repeat(half, axis=1))
        )
    return images


@pytest.fixture
def folder(name, tmp_path):
    build(name, tmp_path, pictures(name), NAMES[name])
    return tmp_path / LAYOUTS[name].folder


def index_of(image, name):
    """Return which of the pictures an image is, as -1 for another; JPEG may move a value a little."""
    pixels = image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB"))
    same = (
        index
        for index, (_, picture) in enumerate(pictures(name))
        if picture.shape == pixels.shape and np.abs(picture.astype(int) - pixels).max() < 6
    )
    return next(same, -1)


def read(name, folder, split="test"):
    """Return what a layout yields, as a count of (class name, which picture)."""
    opened = LAYOUTS[name].read(folder, split)
    names = opened.names or NAMES[name]
    return Counter(
        (names[record.label], index_of(loaded(record), name)) for record in opened.records
    )


def loaded(record):
    return record.image if isinstance(record.image, np.ndarray) else Image.open(record.image)


def expected(name):
    return Counter((NAMES[name][label], index) for index, (label, _) in enumerate(pictures(name)))


BACKGROUND = ("BACKGROUND_Google", -1)


@every_layout
def test_names_labels_and_pictures_are_read_back(name, folder):
    assert all((folder / need).exists() for need in LAYOUTS[name].needs["test"])
    found = read(name, folder)
    assert found.pop(BACKGROUND, 0) == (name == "caltech101")
    assert found == expected(name)
    opened = LAYOUTS[name].read(folder, "test")
    if name in NAMELESS:
        assert opened.names is None
    else:
        assert [each for each in opened.names if each != "BACKGROUND_Google"] == NAMES[name]


@every_layout
def test_the_order_is_fixed_and_a_record_says_where_it_is(name, folder):
    first, second = (list(LAYOUTS[name].read(folder, "test").records) for _ in range(2))
    assert [(record.where, record.label) for record in first] == [
        (record.where, record.label) for record in second
    ]
    for row, record in enumerate(first):
        if isinstance(record.image, Path):
            assert folder / record.where == record.image
        else:
            assert record.where == f"{LAYOUTS[name].needs['test'][0]} row {row}"
            assert record.image.dtype == np.uint8
            assert record.image.flags.c_contiguous
            assert type(record.image) is np.ndarray


@pytest.mark.parametrize(
    "name",
    [
        "cifar10",
        "cifar100",
        "stl10",
        "oxford_pets",
        "flowers102",
        "dtd",
        "fgvc_aircraft",
        "stanford_cars",
        "pcam",
    ],
)
def test_images_come_in_the_order_of_their_list(name, folder):
    records = LAYOUTS[name].read(folder, "test").records
    assert [index_of(loaded(record), name) for record in records] == list(
        range(len(pictures(name)))
    )


TWINS = {
    "sun397": lambda root: torchvision.SUN397(root),
    "food101": lambda root: torchvision.Food101(root, split="test"),
    "oxford_pets": lambda root: torchvision.OxfordIIITPet(root, split="test"),
    "dtd": lambda root: torchvision.DTD(root, split="test"),
    "eurosat": lambda root: torchvision.EuroSAT(root),
    "fgvc_aircraft": lambda root: torchvision.FGVCAircraft(root, split="test"),
    "caltech101": lambda root: torchvision.Caltech101(root),
    "caltech256": lambda root: torchvision.Caltech256(root),
    "stanford_cars": lambda root: torchvision.StanfordCars(root, split="test"),
    "pcam": lambda root: torchvision.PCAM(root, split="test"),
}


@pytest.mark.parametrize("name", TWINS)
def test_torchvision_reads_the_same(name, folder, tmp_path):
    twin = TWINS[name](tmp_path)
    names = NAMES[name] if name == "pcam" else getattr(twin, "classes", None) or twin.categories
    theirs = Counter(
        (names[label].lower(), index_of(image, name))
        for image, label in (twin[i] for i in range(len(twin)))
    )
    ours = Counter(
        {(each.lower(), index): count for (each, index), count in read(name, folder).items()}
    )
    ours.pop((BACKGROUND[0].lower(), -1), None)
    assert ours == theirs


@pytest.mark.parametrize("name", ["cifar100", "tiny_imagenet", "imagenet"])
def test_training_splits_are_read(name, tmp_path):
    build(name, tmp_path, pictures(name), NAMES[name], split="train")
    folder = tmp_path / LAYOUTS[name].folder
    assert all((folder / need).exists() for need in LAYOUTS[name].needs["train"])
    assert read(name, folder, "train") == expected(name)


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_only_the_test_split_of_others_is_read(name, folder):
    assert "train" not in LAYOUTS[name].needs
    with pytest.raises(ZSRobustError, match="the train split is not read"):
        LAYOUTS[name].read(folder, "train")


# Classes without images keep their place where a list, or an empty folder, says that they exist.
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("oxford_pets", "dtd")])
def test_classes_without_images_keep_their_place(name, tmp_path):
    build(name, tmp_path, [(1, pictures(name)[0][1])] * 2, NAMES[name])
    opened = LAYOUTS[name].read(tmp_path / LAYOUTS[name].folder, "test")
    names = opened.names or NAMES[name]
    assert Counter(names[record.label] for record in opened.records) - Counter(
        ["BACKGROUND_Google"]
    ) == {NAMES[name][1]: 2}
    assert set(names) >= set(NAMES[name])


FILES = [
    (name, need)
    for name, layout in LAYOUTS.items()
    for need in layout.needs["test"]
    if "." in Path(need).name
]
FILES += [("cifar10", "test_batch"), ("cifar100", "test"), ("cifar100", "meta")]
FILES += [("tiny_imagenet", "wnids.txt"), ("tiny_imagenet", "val/val_annotations.txt")]


@pytest.mark.parametrize(("name", "need"), FILES)
@pytest.mark.parametrize("content", [None, b"\x80\xff of another kind"])
def test_a_missing_or_damaged_file_is_told_in_one_line(name, folder, need, content):
    (folder / need).unlink()
    if content is not None:
        (folder / need).write_bytes(content)
    with pytest.raises(ZSRobustError) as error:
        list(LAYOUTS[name].read(folder, "test").records)
    assert str(folder / need) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("stl10", "test_y.bin", b"\x02", b"\x00"),
        ("stl10", "test_y.bin", b"\x02", b"\x04"),
        ("stl10", "test_y.bin", b"\x02", b""),
        ("fgvc_aircraft", "data/images_variant_test.txt", b"DH-82", b"DH-83"),
        ("oxford_pets", "annotations/test.txt", b"Abyssinian", b"Persian"),
        ("dtd", "dtd/labels/test1.txt", b"banded/", b""),
        ("food101", "meta/test.json", b"{", b"[{"),
        ("tiny_imagenet", "val/val_annotations.txt", b"n01443537", b"n01443538"),
    ],
)
def test_impossible_annotations_are_refused(name, folder, file, old, new):
    content = (folder / file).read_bytes()
    assert old in content
    (folder / file).write_bytes(content.replace(old, new, 1))
    with pytest.raises(ZSRobustError, match="Cannot read "):
        list(LAYOUTS[name].read(folder, "test").records)


def test_a_file_that_ends_the_process_which_reads_it_is_one_line(tmp_path):
    build("flowers102", tmp_path, pictures("flowers102"), [])
    path = tmp_path / "flowers-102/imagelabels.mat"
    content = bytearray(path.read_bytes())
    content[184] = (
        255  # a type of numbers that is none: scipy takes a pointer from beside its table
    )
    path.write_bytes(content)
    with pytest.raises(ZSRobustError, match=r"Cannot read .*imagelabels\.mat \(ValueError: "):
        LAYOUTS["flowers102"].read(tmp_path / "flowers-102", "test")


@pytest.mark.parametrize(
    "name", ["food101", "oxford_pets", "flowers102", "dtd", "fgvc_aircraft", "stanford_cars"]
)
def test_an_image_that_is_listed_but_absent_comes_nevertheless(name, folder):
    images = [record.image for record in LAYOUTS[name].read(folder, "test").records]
    images[0].unlink()
    assert [record.image for record in LAYOUTS[name].read(folder, "test").records] == images


@pytest.mark.parametrize(
    ("name", "missing"), [("sun397", "j/jail_cell"), ("eurosat", "2750"), ("imagenet", "val")]
)
def test_a_missing_folder_is_named(name, folder, missing):
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(ZSRobustError, match=missing):
        LAYOUTS[name].read(folder, "test")


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("name", "file"), [("cifar10", "test_batch"), ("cifar10", "batches.meta"), ("cifar100", "test")]
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_in_a_pickle_is_refused_and_not_run(name, folder, file, protocol, tmp_path):
    (folder / file).write_bytes(pickle.dumps({"labels": Attack(tmp_path / "run")}, protocol))
    with pytest.raises(ZSRobustError, match=rf"{file} holds code \(\w+\.mkdir\), refused"):
        LAYOUTS[name].read(folder, "test")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n.",
        b"cnumpy\nload\n.",
        b"c_codecs\ndecode\n.",
        b"\x8c\x05numpy\x8c\x0bndarray.sum\x93.",
    ],
)
@pytest.mark.parametrize("name", ["cifar10"])
def test_no_other_name_can_be_reached_from_a_pickle(name, folder, content):
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(ZSRobustError, match="holds code"):
        LAYOUTS[name].read(folder, "test")


@pytest.mark.parametrize("name", ["cifar10"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_batches_that_python_3_wrote_are_read(name, folder, order):
    images = pictures(name)
    data = np.array([picture.transpose(2, 0, 1).ravel() for _, picture in images])
    held = {"labels": [label for label, _ in images], "data": np.asarray(data, order=order)}
    (folder / "test_batch").write_bytes(pickle.dumps(held, protocol=2))
    assert read(name, folder) == expected(name)


@pytest.mark.parametrize("name", ["cifar10"])
def test_a_batch_with_too_few_labels_is_refused(name, folder):
    dump(folder / "test_batch", {"labels": [0], "data": np.zeros((2, 3072), dtype=np.uint8)})
    with pytest.raises(ZSRobustError, match="test_batch"):
        LAYOUTS[name].read(folder, "test")


@pytest.mark.parametrize("name", ["stl10"])
def test_stl10_is_stored_by_columns_and_counts_from_one(name, folder):
    """As torchvision's STL10 reads it, which refuses a fixture by its md5."""
    theirs = (
        np.fromfile(folder / "test_X.bin", dtype=np.uint8)
        .reshape(-1, 3, 96, 96)
        .transpose(0, 1, 3, 2)
    )
    records = list(LAYOUTS[name].read(folder, "test").records)
    assert np.array_equal([record.image.transpose(2, 0, 1) for record in records], theirs)
    assert (records[1].image == pictures(name)[1][1]).all()
    assert [record.label for record in records] == [label for label, _ in pictures(name)]
    assert np.fromfile(folder / "test_y.bin", dtype=np.uint8).min() == 1


@pytest.mark.parametrize("name", ["tiny_imagenet"])
def test_val_is_the_same_with_and_without_folders(name, folder, tmp_path):
    def opened():
        found = LAYOUTS[name].read(folder, "test")
        return found.names, [
            (record.image.name, record.label, index_of(loaded(record), name))
            for record in found.records
        ]

    raw = opened()
    refolder(tmp_path)
    assert opened() == raw
    (folder / "val/images").mkdir()  # some scripts leave it
    assert opened() == raw


@pytest.mark.parametrize(("name", "damage"), [("x", "rows"), ("x", "type"), ("y", "labels")])
def test_pcam_arrays_of_another_shape_are_refused(name, damage, tmp_path):
    build("pcam", tmp_path, pictures("pcam"), [])
    path = tmp_path / f"pcam/camelyonpatch_level_2_split_test_{name}.h5"
    arrays = {
        "rows": np.zeros((3, 96, 96, 3), np.uint8),
        "type": np.zeros((4, 96, 96, 3)),
        "labels": np.full((4, 1, 1, 1), 2),
    }
    with h5py.File(path, "w") as file:
        file[name] = arrays[damage]
    with pytest.raises(ZSRobustError, match=path.name):
        LAYOUTS["pcam"].read(path.parent, "test")


def test_pcam_is_read_in_blocks_without_a_seam(tmp_path):
    images = [
        (index % 2, np.full((96, 96, 3), index % 251, dtype=np.uint8)) for index in range(300)
    ]
    build("pcam", tmp_path, images, [])
    records = list(LAYOUTS["pcam"].read(tmp_path / "pcam", "test").records)
    assert [int(record.image[0, 0, 0]) for record in records] == [
        index % 251 for index in range(300)
    ]
    assert [record.label for record in records] == [index % 2 for index in range(300)]


@pytest.mark.parametrize(
    ("name", "library"),
    [("flowers102", "scipy.io"), ("stanford_cars", "scipy.io"), ("pcam", "h5py")],
)
def test_a_missing_library_is_named(name, folder, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ZSRobustError, match=rf"{library}.*pip install 'zsrobust\[layouts\]'"):
        LAYOUTS[name].read(folder, "test")


@pytest.mark.parametrize("name", ["caltech256"])
def test_stray_files_and_folders_are_left_out(name, folder):
    dog = folder / "256_ObjectCategories/003.backpack"
    save(dog / "greg/vision309/001_0001.jpg", pictures(name)[0][1])
    (dog / "RENAME2").write_text("a script")
    (dog / "._003_0001.jpg").write_bytes(b"of a Mac")
    assert read(name, folder) == expected(name)


def test_any_folder_of_folders_is_opened(tmp_path):
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    for file in (
        "b/2.png",
        "b/10.JPEG",
        "b/images/1.png",
        "a c/x.png",
        ".cache/1.png",
        "b/.hidden.png",
        "b/.trash/1.png",
    ):
        save(tmp_path / file, picture)
    (tmp_path / "b/boxes.txt").write_text("1 2 3")
    (tmp_path / "readme.png").write_text("beside the classes")
    (tmp_path / "linked").symlink_to(tmp_path / "a c")
    opened = open_folder(tmp_path)
    assert opened.names == ["a c", "b", "linked"]
    found = [(record.where, record.label) for record in opened.records]
    assert found == [
        ("a c/x.png", 0),
        ("b/10.JPEG", 1),
        ("b/2.png", 1),
        ("b/images/1.png", 1),
        ("linked/x.png", 2),
    ]


def test_folders_that_hold_no_dataset_are_refused(tmp_path):
    with pytest.raises(ZSRobustError, match="No folder .*nowhere"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(ZSRobustError, match="has no subfolders"):
        open_folder(tmp_path)
    save(tmp_path / "cat/1.png", np.zeros((8, 8, 3), dtype=np.uint8))
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/notes.txt").write_text("none yet")
    with pytest.raises(ZSRobustError, match="dog holds no image"):
        open_folder(tmp_path)
