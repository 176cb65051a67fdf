"""The 16 datasets: what the catalogue says, and that local copies in their real layouts get the right labels."""

import dataclasses
import math
import os
import subprocess
import sys

import layouts
import numpy as np
import pytest
import torch
from colors import ColorReader, picture

import zsrobust
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import load_plugins
from zsrobust.datasets import Cut, Dataset, State, cache, datasets
from zsrobust.datasets.catalogue import listed, register_dataset
from zsrobust.datasets.sources import hub
from zsrobust.datasets.sources.labels import assign
from zsrobust.running.entries import load_entries
from zsrobust.settings import suites
from zsrobust.testing import check_dataset, check_entry

PAPER = suites.load("paper").datasets
SIZES = {"cifar10": 32, "cifar100": 32, "stl10": 96, "eurosat": 64, "tiny_imagenet": 64, "pcam": 96}
EVERY_CLASS = {"oxford_pets", "dtd"}  # their class names stand in the split file


@pytest.fixture(autouse=True)
def _places(tmp_path, monkeypatch):
    load_plugins()
    monkeypatch.setenv("ZSROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZSROBUST_DATA", str(tmp_path / "data"))
    registered = dict(datasets._entries)
    yield
    datasets._entries.clear()
    datasets._entries.update(registered)


def names_of(name):
    return list(datasets[name].origin.called["names"])


def labels_of(name):
    """Return a few labels, those that copies are known to swap among them; all where a layout needs all."""
    classes = len(datasets[name].classes)
    some = {0, 1, 2, 16, 17, 26, 57, 100, 189, 206, 207, classes - 1}
    return (
        list(range(classes))
        if name in EVERY_CLASS
        else sorted(label for label in some if label < classes)
    )


def test_it_has_the_sixteen_with_the_papers_sizes():
    known = listed()
    assert list(known) == list(PAPER)
    assert sum(dataset.size for dataset in known.values()) == 344_128
    assert [name for name, dataset in known.items() if dataset.train_size] == [
        "cifar100",
        "tiny_imagenet",
        "imagenet",
    ]
    assert {name: dataset.side for name, dataset in known.items() if dataset.side} == SIZES
    for name, dataset in known.items():
        check_entry(name)
        assert dataset.name == name
        assert dataset.citation
        assert dataset.license
        assert dataset.metric == "top-1"
        assert dataset.origin.sources
        assert dataset.origin.layout == name
        called = dataset.origin.called.values()
        assert all(len(names) == len(dataset.classes) for names in called)


@pytest.mark.parametrize("name", PAPER)
def test_a_local_copy_in_torchvisions_layout_gets_the_right_labels(name, tmp_path, monkeypatch):
    side = SIZES.get(name)
    labels = labels_of(name)
    pictures = [(label, picture(label, side or 200, side or 300)) for label in labels]
    layouts.build(name, tmp_path / "data", pictures, names_of(name))
    part = f"part_of_{name}"
    register_dataset(part, {"like": name, "size": len(labels)}, tmp_path)
    result = zsrobust.evaluate(ColorReader(len(datasets[name].classes)), dataset=part, limit=2)
    assert result.clean_correct == result.images == 2
    images = datasets[part].open("test", Cut(224))
    assert sorted(images.labels) == labels
    assert images.pixels.shape == (len(labels), 3, side or 224, side or 224)
    reader = ColorReader(len(datasets[name].classes))
    assert (
        reader(torch.from_numpy(np.array(images.pixels)).float() / 255).argmax(1).tolist()
        == images.labels.tolist()
    )
    assert cache.read_about(next((tmp_path / "cache" / "prepared").glob(f"{part}-test-*")))[
        "images"
    ] == len(labels)


def test_prepared_images_know_their_digest_and_it_is_the_one_computed_from_them(tmp_path):
    layouts.build(
        "cifar10",
        tmp_path / "data",
        [(k, picture(k, 32, 32)) for k in range(10)],
        names_of("cifar10"),
    )
    register_dataset("part", {"like": "cifar10", "size": 10}, tmp_path)
    images = datasets["part"].open("test", Cut(224))
    assert images.digest == images.at(np.arange(10)).digest
    assert images.at(np.arange(10)).known_digest is None


def test_a_copy_with_another_number_of_images_is_refused(tmp_path):
    layouts.build(
        "cifar10",
        tmp_path / "data",
        [(k, picture(k, 32, 32)) for k in range(10)],
        names_of("cifar10"),
    )
    with pytest.raises(
        ZSRobustError, match=r"cifar-10-batches-py holds 10 images; cifar10 \(test\) has 10000"
    ):
        datasets["cifar10"].open("test", Cut(224))
    assert not list((tmp_path / "cache" / "prepared").iterdir())


def test_a_copy_that_is_not_whole_is_refused(tmp_path):
    layouts.build("stl10", tmp_path / "data", [(0, picture(0, 96, 96))], names_of("stl10"))
    (tmp_path / "data" / "stl10_binary" / "test_y.bin").unlink()
    with pytest.raises(ZSRobustError, match="stl10_binary is not whole: it has no test_y.bin"):
        datasets["stl10"].open("test", Cut(224))


def folder_of(tmp_path, classes, name="birds"):
    from PIL import Image

    for label, each in enumerate(classes):
        (tmp_path / name / each).mkdir(parents=True)
        Image.fromarray(picture(label)).save(tmp_path / name / each / "a.png")
    return tmp_path / name


def test_a_folder_and_a_toml_entry_are_a_dataset(tmp_path):
    folder_of(tmp_path, ["blue_tit", "robin", "wren"])
    register_dataset(
        "birds", {"folder": "birds", "templates": ["a photo of a {}, a bird"]}, tmp_path
    )
    dataset = datasets["birds"]
    assert (dataset.size, dataset.classes) == (3, ("blue tit", "robin", "wren"))
    assert dataset.prompts()[0] == ["a photo of a blue tit, a bird"]
    check_dataset("birds")
    result = zsrobust.evaluate(ColorReader(3), dataset="birds")
    assert result.clean_correct == 3


@pytest.mark.parametrize(
    ("subfolders", "message"),
    [
        (["test"], r"are splits and not classes\. Name the split: folder = \"birds/test\"$"),
        (["test", "train"], r"subfolders test, train, which are splits .* \"birds/test\"$"),
        (["pictures"], r"has one subfolder, pictures, .* folder = \"birds/pictures\"$"),
    ],
)
def test_a_folder_of_one_class_or_of_splits_is_refused(subfolders, message, tmp_path):
    folder_of(tmp_path, subfolders)
    with pytest.raises(ZSRobustError, match=message) as caught:
        register_dataset("birds", {"folder": "birds"}, tmp_path)
    assert "\n" not in str(caught.value)
    assert "birds" not in datasets.registered()


def test_the_command_line_refuses_one_class_and_the_split_inside_works(tmp_path, zsrobust):
    (tmp_path / "birds").mkdir()
    folder_of(tmp_path / "birds", ["robin", "wren"], "test")
    suite = 'like = "mini"\ndatasets = ["birds"]\n\n[dataset.birds]\nfolder = "{}"\n'
    (tmp_path / "mine.toml").write_text(suite.format("birds"))
    command = ("run", "--suite", "mine.toml", "--defense", "clip", "--dry-run")
    refused = zsrobust(*command, ok=2)
    assert 'Name the split: folder = "birds/test"' in refused.stderr
    (tmp_path / "mine.toml").write_text(suite.format("birds/test"))
    assert "2 cells, 4 images" in zsrobust(*command).stdout


def test_a_dataset_of_one_class_is_not_registered():
    one = Dataset(
        title="One",
        group="general",
        about="Nothing.",
        classes=("a",),
        templates=("{}",),
        size=1,
        side=1,
        load=lambda split: None,
    )
    with pytest.raises(ZSRobustError, match="The dataset one has 1 class. Expected two or more"):
        datasets.register("one")(one)
    datasets._entries["one"] = dataclasses.replace(one, name="one")  # as if by other means
    with pytest.raises(AssertionError, match="one has fewer than two classes"):
        check_dataset("one")


def test_a_copy_with_another_number_of_images_is_not_listed_as_present(tmp_path, zsrobust):
    def line():
        text = zsrobust("data").stdout
        (found,) = (each for each in text.splitlines() if each.startswith("cifar10 "))
        return found

    assert " missing " in line()
    pictures = [(k % 10, picture(k % 10, 32, 32)) for k in range(20)]
    layouts.build("cifar10", tmp_path / "data", pictures, names_of("cifar10"))
    assert " not usable " in line()
    assert line().endswith("cifar-10-batches-py: 20 images, expected 10,000")
    assert " present " not in line()
    (tmp_path / "data/cifar-10-batches-py/batches.meta").unlink()
    assert line().endswith("cifar-10-batches-py: files of the test split are missing")


def test_a_copy_with_the_right_number_of_images_is_present(tmp_path):
    for name in ("cifar10", "stl10"):
        pictures = [(k, picture(k, SIZES[name], SIZES[name])) for k in range(10)]
        layouts.build(name, tmp_path / "data", pictures, names_of(name))
        part = dataclasses.replace(datasets[name], size=10)
        assert (part.state("test", None).where, part.wrong("test")) == ("local", "")


def test_a_part_of_a_dataset_is_one_of_its_own(tmp_path):
    wanted = names_of("cifar10")
    folder_of(tmp_path, wanted, "mine")
    (tmp_path / "mine" / "truck").rename(tmp_path / "mine" / "zebra")
    with pytest.raises(ZSRobustError, match="unknown classes: 'zebra'; missing classes: 'truck'"):
        register_dataset("part", {"like": "cifar10", "folder": "mine", "side": 200}, tmp_path)
    (tmp_path / "mine" / "zebra").rename(tmp_path / "mine" / "truck")
    register_dataset("part", {"like": "cifar10", "folder": "mine"}, tmp_path)
    with pytest.raises(
        ZSRobustError,
        match=r"10 of 10 images cannot be read, the first is airplane/a.png \(300x200 pixels, not 32",
    ):
        datasets["part"].open("test", Cut(224))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folder": "nowhere"}, "there is no folder .*nowhere"),
        ({"like": "cifar"}, "dataset.mine: like: Unknown dataset 'cifar'. Did you mean cifar10"),
        ({"folders": ["a", "b"]}, "size is missing"),
        ({"like": "cifar10", "foldr": "x"}, "Did you mean folder"),
        ({}, "expected a folder, or `like`"),
        (
            {
                "like": "cifar10",
                "sources": [{"repo": "a/b", "revision": "main", "format": "parquet"}],
            },
            "not a full commit",
        ),
        (
            {"like": "cifar10", "sources": [{"repo": "a/b"}]},
            r"dataset.mine: sources\[0\]: revision is missing",
        ),
        ({"like": "mini_shapes"}, "like: Unknown dataset 'mini_shapes'"),
        ({"like": "cifar10", "size": True}, "dataset.mine: size = True is not valid; expected a"),
        ({"like": "cifar10", "templates": []}, r"templates = \[\] is not valid"),
        ({"like": "cifar10", "classes": ["a"]}, "classes has 1 names; expected 10, as cifar10 has"),
        ({"like": "cifar10", "folders": ["a"]}, "folders has 1 names; expected 10, as cifar10 has"),
    ],
)
def test_a_bad_entry_is_one_line(fields, message, tmp_path):
    with pytest.raises(ZSRobustError, match=message) as caught:
        register_dataset("mine", fields, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_copy_whose_folders_have_names_of_their_own_is_mapped_by_their_order(tmp_path):
    theirs = [f"c{label:02}" for label in range(10)]
    folder_of(tmp_path, theirs, "mine")
    register_dataset(
        "mine", {"like": "cifar10", "folder": "mine", "side": 200, "folders": theirs}, tmp_path
    )
    assert datasets["mine"].size == 10
    register_dataset("square", {"like": "mine"}, tmp_path)
    assert datasets["square"].origin == datasets["mine"].origin


def test_a_dataset_learns_its_name_when_it_is_registered():
    dataset = Dataset(
        title="Any",
        group="general",
        about="Nothing.",
        classes=("a", "b"),
        templates=("{}",),
        size=1,
        side=1,
        load=lambda split: None,
    )
    assert datasets.register("any")(dataset) is dataset
    assert datasets["any"] == dataclasses.replace(dataset, name="any")
    assert all(datasets[name].name == name for name in datasets)
    assert datasets["any"].state("test", None) == State("built in")
    assert datasets["any"].prepare("test", Cut(1)) is None
    assert datasets["any"].to_download("test") == 0


def test_the_error_of_an_entry_names_its_file(tmp_path):
    (tmp_path / "mine.toml").write_text('[dataset.mine]\nlike = "cifar10"\nsize = 0\n')
    with pytest.raises(ZSRobustError, match=r"mine.toml: dataset.mine: size = 0 is not valid"):
        load_entries(tmp_path / "mine.toml")


def test_an_unreadable_image_is_named_and_counted_and_nothing_is_prepared(tmp_path):
    folder_of(tmp_path, ["a", "b", "c", "d"])
    (tmp_path / "birds" / "b" / "a.png").write_bytes(b"\x89PNG half of it")
    (tmp_path / "birds" / "c" / "a.png").write_bytes(b"")
    register_dataset("birds", {"folder": "birds"}, tmp_path)
    with pytest.raises(
        ZSRobustError, match=r"2 of 4 images cannot be read, the first is b/a.png \("
    ):
        datasets["birds"].open("test", Cut(224))
    assert not list((tmp_path / "cache" / "prepared").iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    folder_of(tmp_path, ["a", "b"])
    register_dataset("birds", {"folder": "birds"}, tmp_path)

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ZSRobustError, match="Cannot prepare birds in .*: No space left on device"):
        datasets["birds"].open("test", Cut(224))
    assert not list((tmp_path / "cache" / "prepared").iterdir())


SLOW = """
import sys, time
from pathlib import Path
from zsrobust.datasets import Cut, cache
from zsrobust.datasets.sources.records import Opened, Record
import numpy as np

def records():
    for k in range(40):
        if k == 30 and sys.argv[2] == "die":
            print("thirty", flush=True)
            time.sleep(60)
        yield Record(f"row {k}", np.full((64, 64, 3), k, np.uint8), k)

about = {"dataset": "x", "split": "test", "source": "here"}
cache.write(Path(sys.argv[1]), Opened(None, records()), lambda record: record.label,
               size=40, side=64, cut=Cut(224), about=about, progress=lambda done, total: None)
print(cache.read(Path(sys.argv[1])).digest)
"""


def test_a_killed_preparation_leaves_nothing_that_looks_complete_and_the_next_one_cleans_up(
    tmp_path,
):
    def start(folder, how):
        arguments = [sys.executable, "-c", SLOW, str(tmp_path / folder / "x"), how]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    with start("one", "die") as dying:
        assert dying.stdout.readline() == "thirty\n"
        dying.kill()
    (left,) = (tmp_path / "one").iterdir()
    assert left.name.startswith(".x.")
    assert not cache.is_complete(tmp_path / "one" / "x")
    digests = []
    for folder in ("one", "undisturbed"):
        with start(folder, "live") as living:
            digests.append(living.stdout.read())
        assert [each.name for each in (tmp_path / folder).iterdir()] == ["x"]
    assert digests[0] == digests[1] != ""


def test_another_cut_is_another_cache_where_images_have_sizes_of_their_own(tmp_path):
    folder_of(tmp_path, ["a", "b"])
    register_dataset("birds", {"folder": "birds"}, tmp_path)
    first = datasets["birds"].prepare("test", Cut(224))
    second = datasets["birds"].prepare("test", Cut(224, 256 / 224, "bilinear"))
    assert first != second
    assert cache.read(second).cut == Cut(224, 256 / 224, "bilinear")
    assert datasets["birds"].state("test", Cut(224)).where == "prepared"
    assert datasets["birds"].state("test", Cut(96)).where == "local"


def test_a_damaged_cache_says_so(tmp_path):
    folder_of(tmp_path, ["a", "b"])
    register_dataset("birds", {"folder": "birds"}, tmp_path)
    folder = datasets["birds"].prepare("test", Cut(224))
    pixels = folder / "pixels.npy"
    os.truncate(pixels, pixels.stat().st_size - 5)
    with pytest.raises(ZSRobustError, match="is damaged .* Delete it, and it is prepared again"):
        datasets["birds"].open("test", Cut(224))


def test_names_are_matched_whatever_their_case_and_order_and_equal_ones_in_turn():
    known = {"names": ["n1", "n2", "n3"], "said": ["crane", "crane", "Ice_cream"]}
    assert assign(["ice-cream", "CRANE", "crane"], known, [], "x") == {0: 2, 1: 0, 2: 1}
    assert assign(["n3", "background", "n1", "n2"], known, ["Background"], "x") == {
        0: 2,
        1: None,
        2: 0,
        3: 1,
    }


def test_the_flowers_whose_labels_are_sorted_as_strings_are_refused():
    numbers = sorted(map(str, range(1, 103)))
    with pytest.raises(
        ZSRobustError,
        match="102 classes that are not this dataset's: unknown classes: '1', '10', '100'",
    ):
        assign(numbers, datasets["flowers102"].origin.called, [], "nelorth/oxford-flowers")


@pytest.mark.parametrize("name", PAPER)
def test_every_list_of_names_is_mapped_to_the_canonical_order(name):
    origin = datasets[name].origin
    for called in origin.called.values():
        order = np.random.RandomState(0).permutation(len(called))
        mapped = assign([called[k] for k in order], origin.called, origin.dropped, name)
        same = {}
        for k, each in enumerate(called):
            same.setdefault(each.lower(), set()).add(k)
        assert all(mapped[place] in same[called[k].lower()] for place, k in enumerate(order))
        assert sorted(mapped.values()) == list(range(len(called)))


def test_tiny_imagenets_hub_copies_sort_other_wnids():
    dataset = datasets["tiny_imagenet"]
    theirs = sorted(dataset.origin.called["hub"])
    mapped = assign(theirs, dataset.origin.called, [], "zh-plus")
    assert sum(mapped[k] != k for k in mapped) == 189
    assert dataset.classes[mapped[theirs.index("n07646821")]] == "goose"


def test_prompts_of_the_protocols():
    dataset = datasets["pcam"]
    assert dataset.prompts("released")[0] == ["Tthis is a photo of healthy lymph node tissue."]
    assert dataset.prompts()[0] == ["This is a photo of a lymph node"]
    assert datasets["stanford_cars"].look_alikes() == []
    assert len(datasets["stanford_cars"].look_alikes("released")) == 7
    assert datasets["imagenet"].look_alikes() == [[657, 744], [836, 837]]
    assert len(datasets["cifar10"].prompts("openai")[0]) == 18
    for name, released, tecoa in [
        ("caltech101", "A photo of a s.", "This is a photo of a faces"),
        ("caltech256", "A photo of a bonsai 101.", "A photo of a bonsai."),
    ]:
        label = [prompt for [prompt] in datasets[name].prompts("released")].index(released)
        assert datasets[name].prompts("tecoa")[label] == [tecoa]
    kept = [prompt for [prompt] in datasets["caltech256"].prompts("released") if "101" in prompt]
    assert len(kept) == 30
    assert datasets["pcam"].prompts("tecoa") == datasets["pcam"].prompts("released")
    assert datasets["eurosat"].prompts("released")[1] == ["A centered satellite photo of a forest."]


def test_the_cut_is_torchvisions():
    from PIL import Image
    from torchvision import transforms

    rng = np.random.RandomState(0)
    for width, height in [(300, 200), (201, 333), (64, 64), (1000, 227), (225, 224)]:
        image = Image.fromarray(rng.randint(0, 255, (height, width, 3), dtype=np.uint8))
        for cut, size in [(Cut(224), 224), (Cut(224, 256 / 224, "bilinear"), 256)]:
            mode = getattr(transforms.InterpolationMode, cut.interpolation.upper())
            theirs = transforms.Compose(
                [transforms.Resize(size, mode), transforms.CenterCrop(224)]
            )(image)
            assert np.array_equal(np.asarray(cache._cut(image, cut)), np.asarray(theirs))


def test_preparing_takes_no_memory_that_grows(tmp_path):
    import tracemalloc

    from zsrobust.datasets.sources.records import Opened, Record

    def peak(images):
        records = (Record(f"row {k}", picture(k % 10, 64, 64), k % 10) for k in range(images))
        about = {"dataset": "x", "split": "test", "source": "here"}
        tracemalloc.start()
        cache.write(
            tmp_path / str(images),
            Opened(None, records),
            lambda record: record.label,
            size=images,
            side=64,
            cut=Cut(224),
            about=about,
            progress=lambda done, total: None,
        )
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(4000) < peak(400) + 1_000_000 < 3 * math.prod((400, 3, 64, 64))


def test_a_source_without_names_needs_a_declared_order(tmp_path):
    from zsrobust.datasets.sources.records import Opened, Record

    part = datasets["pcam"].origin.part(datasets["pcam"], "test")
    label_of = part._labels(Opened(None, iter(())), "a/b", in_order=False)
    with pytest.raises(ZSRobustError, match="a/b, row 1: label 0 carries no class names"):
        label_of(Record("row 1", b"", 0))
    label_of = part._labels(Opened(None, iter(())), "a/b", in_order=True)
    assert label_of(Record("row 1", b"", 1)) == 1


def test_the_revisions_are_pinned():
    for dataset in listed().values():
        sources = dataset.origin.sources
        assert all(len(source.revision) == 40 for source in sources)
        assert all(isinstance(source, hub.HubSource) for source in sources)
