"""Each of the 16 datasets from a local server that speaks the hub's protocol, through the real client and command line."""

import os

import fresh
import pytest
from colors import encoded
from hubserver import HubServer, parquet, wds, zipped

from zsrobust.datasets.catalogue import listed
from zsrobust.settings import suites

DATASETS = listed()
PAPER = suites.load("paper").datasets
ALL_CLASSES = {"eurosat"}  # its class names are the folders of the archive

#: What the hub's copies call the classes where it is not our list in our order: with the orders and errors they have.
THEIRS = {
    "cifar100": lambda origin: origin.called["hub"],
    "food101": lambda origin: swapped(origin.called["names"], 16, 17),
    "tiny_imagenet": lambda origin: sorted(origin.called["hub"]),
    "imagenet": lambda origin: None,
    "caltech101": lambda origin: sorted(
        [*(name.lower() for name in origin.called["names"]), "background_google"]
    ),
    "pcam": lambda origin: None,
}


def swapped(names, one, other):
    names = list(names)
    names[one], names[other] = names[other], names[one]
    return names


def pictures(name):
    """Return (the hub's label, an encoded picture that says the canonical label by its color)."""
    dataset, origin = DATASETS[name], DATASETS[name].origin
    classes = len(dataset.classes)
    labels = (
        range(classes)
        if name in ALL_CLASSES
        else sorted({k for k in (0, 1, 16, 17, 26, 57, 189) if k < classes})
    )
    theirs = THEIRS.get(name, lambda origin: origin.called["names"])(origin)
    size = {"height": dataset.side, "width": dataset.side} if dataset.side else {}
    canonical = {called[k].lower(): k for called in origin.called.values() for k in range(classes)}
    of_label = {k: k for k in labels}
    if theirs is not None:
        of_label = {
            canonical[name.lower()]: place
            for place, name in enumerate(theirs)
            if name.lower() in canonical
        }
    return theirs, [(of_label[k], encoded(k, **size)) for k in labels]


def repository(name, source):
    """Return the files of a dataset's repository on the hub, and the number of its test images."""
    dataset = DATASETS[name]
    theirs, images = pictures(name)
    if source.format == "zip":
        named = [(dataset.origin.called["names"][label], content) for label, content in images]
        return {source.test[0]: zipped(named, source.inside)}, len(images)
    if source.format == "tar":
        return wds(images, theirs or [f"class {k}" for k in range(len(dataset.classes))]), len(
            images
        )
    extra = {}
    if source.names:  # caltech256: labels from 1, and a column of names
        extra = {source.names: [theirs[label] for label, _ in images]}
        images = [(label + 1, content) for label, content in images]
    files = {"README.md": b"# A copy", "data/other-00000-of-00001.parquet": b"not ours"}
    for place, split in enumerate(source.test):
        part = images[place :: len(source.test)]
        if name == "caltech101":
            part = [*part, (theirs.index("background_google"), encoded(300))]
        more = {key: values[place :: len(source.test)] for key, values in extra.items()}
        files[f"data/{split}-00000-of-00001.parquet"] = parquet(
            part, theirs, source.image, source.label, more
        )
    return files, len(images)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


def call(place, *run, ok=0, **environment):
    everything = {
        **os.environ,
        "HF_HOME": str(place / "hf"),
        "ZSROBUST_CACHE": str(place / "cache"),
        "COLUMNS": "200",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    done = fresh.Process(*run, folder=place, environment=everything).end()
    assert done.returncode == ok, done.stdout + done.stderr
    return done


def zsrobust(place, *arguments, ok=0, **environment):
    return call(place, fresh.command, arguments, False, ok=ok, **environment)


READ = """
import sys
from pathlib import Path
import numpy as np
import zsrobust
from zsrobust.datasets import Cut, datasets
from zsrobust.running.entries import load_entries
from zsrobust.datasets.pixels import tensor
sys.path.insert(0, sys.argv[1])
from colors import ColorReader
load_entries(Path("parts.toml"))
for name in sys.argv[2:]:
    dataset = datasets[name]
    images = dataset.open("test", Cut(32, 1.0, "bicubic"))
    logits = ColorReader(len(dataset.classes))(tensor(images, np.arange(dataset.size), Cut(32)))
    assert (logits.argmax(1).numpy() == images.labels).all(), name
    print(name, "right")
result = zsrobust.evaluate(ColorReader(101), dataset="part_of_food101", attack="pgd2")
assert result.clean_correct == result.images == datasets["part_of_food101"].size
"""


def test_every_dataset_is_downloaded_prepared_and_right_and_then_works_offline(place):
    parts = []
    with HubServer() as server:
        for name in PAPER:
            source = DATASETS[name].origin.sources[0]
            files, size = repository(name, source)
            server.add(source.repo, files, revision=source.revision)
            parts.append(f'[dataset.part_of_{name}]\nlike = "{name}"\nsize = {size}\n')
        (place / "parts.toml").write_text("\n".join(parts))
        names = [f"part_of_{name}" for name in PAPER]
        done = zsrobust(
            place,
            "--plugin",
            "parts.toml",
            "data",
            *names,
            "--suite",
            "mini",
            HF_ENDPOINT=server.url,
        )
        assert [line.split()[0] for line in done.stdout.splitlines()] == names
    shown = zsrobust(place, "--plugin", "parts.toml", "data").stdout
    assert all(
        any(line.startswith(f"{name} ") and "prepared" in line for line in shown.splitlines())
        for name in names
    )
    tests = os.path.dirname(__file__)
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = call(place, fresh.script, READ, tests, *names, **offline)
    assert done.stdout.split()[::2] == names


PREPARE = """
import sys
from zsrobust.datasets import Cut, datasets
from zsrobust.datasets.catalogue import register_dataset
from zsrobust.registry import ZSRobustError
from pathlib import Path
register_dataset("third", {"like": "cifar10", "size": int(sys.argv[1])}, Path())
try:
    print("prepared", datasets["third"].prepare("test", Cut(32)))
except ZSRobustError as error:
    print(error)
"""


def test_the_next_source_is_tried_where_one_is_gone_gated_or_another_set(place):
    theirs, images = pictures("cifar10")

    def prepare(cache):
        where = {
            "HF_ENDPOINT": server.url,
            "ZSROBUST_CACHE": str(place / cache),
            "HF_HOME": str(place / cache / "hf"),  # the server below changes a commit
        }
        (line,) = call(place, fresh.script, PREPARE, str(len(images)), **where).stdout.splitlines()
        return line

    with HubServer() as server:
        _, gated, good = DATASETS["cifar10"].origin.sources
        server.add(
            gated.repo,
            {"test-00000-of-00001.parquet": b"PAR1"},
            revision=gated.revision,
            gated=True,
        )
        server.add(good.repo, wds(images, theirs), revision=good.revision)
        assert prepare("third").startswith("prepared ")
        server.add(good.repo, wds(images[1:], theirs), revision=good.revision)
        smaller = prepare("smaller")
        assert "There is no dataset mteb/cifar10" in smaller
        assert "uoft-cs/cifar10 asks for consent" in smaller
        assert (
            f"djghosh/wds_cifar10_test@7509909 holds {len(images) - 1} images; third (test) has {len(images)}"
            in smaller
        )


@pytest.fixture
def offline(place):
    return {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "ZSROBUST_CACHE": str(place / "empty"),
        "HF_HOME": str(place / "empty"),
    }


def test_a_dry_run_plans_without_network_and_data_and_marks_what_is_unknown(place, offline):
    (place / "few.toml").write_text('like = "mini"\ndatasets = ["cifar10", "mini_cells", "dtd"]\n')
    options = ("run", "--suite", "few.toml", "--defense", "tecoa", "--attack", "pgd10")
    (download, unknown, train, compute, *_) = zsrobust(
        place, *options, "--dry-run", **offline
    ).stdout.splitlines()
    assert download == "download  at least 0.00 GB"
    assert unknown.split() == [
        "size",
        "unknown,",
        "as",
        "nothing",
        "can",
        "be",
        "asked:",
        "cifar10,",
        "dtd",
    ]
    assert train == "train     tecoa on mini_train, 4 epochs"
    assert compute.startswith("compute   3 cells, 12,")
    error = zsrobust(place, *options, ok=2, **offline).stderr
    assert error.startswith("Error: 2 of 3 datasets are not on this machine: cifar10, dtd.")


def test_without_network_and_data_a_run_says_at_once_what_is_missing(place, offline):
    done = zsrobust(place, "run", "--defense", "pmg_aft", "--attack", "autoattack", ok=2, **offline)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(
        "Error: 16 of 16 datasets are not on this machine: cifar10, cifar100, stl10"
    )
    assert all(
        told in line for told in ("--data-root", "ZSROBUST_DATA", "--suite mini", "127.0.0.1:9")
    )
