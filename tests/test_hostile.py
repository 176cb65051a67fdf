"""What is loaded runs nothing, takes no more memory than it is worth, and writes nowhere but where it should."""

import ast
import io
import json
import pickle
import resource
import struct
import sys
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from fuzz.fuzz_inputs import toml
from hubserver import parquet, png
from layouts import build
from PIL import Image
from test_results import make, outcomes
from tiny import make_clip

import zsrobust
from zsrobust import results
from zsrobust.attacks import attacks
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import slug
from zsrobust.core.registry import load_plugin_file
from zsrobust.core.specs import parse_eps, parse_fields, split_spec
from zsrobust.datasets import Cut, cache
from zsrobust.datasets.sources import formats
from zsrobust.datasets.sources.hub import HubSource
from zsrobust.datasets.sources.layouts import LAYOUTS
from zsrobust.datasets.sources.pickles import Unpickler
from zsrobust.datasets.sources.records import Opened, Record
from zsrobust.defenses import defenses
from zsrobust.defenses.weights import load_tower
from zsrobust.models.clip import _check_tokenizer, load_clip
from zsrobust.results import store
from zsrobust.results.cell import Outcomes, Samples
from zsrobust.running import entries
from zsrobust.settings import protocols, suites
from zsrobust.training import Checkpoint
from zsrobust.training.partial import Partial

PACKAGE = Path(zsrobust.__file__).parent


@pytest.fixture(autouse=True)
def _room():
    """No test here may take 2 GB more than there were: what a file claims is not allocated."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2 * 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def refused(call, *told):
    """The one line of the error that a call ends in."""
    with pytest.raises(ZSRobustError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for each in told:
        assert each in line, line
    return line


# Pictures


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def claimed(width: int, height: int) -> bytes:
    """A PNG that says it has this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def prepare(folder, content, side=None):
    cache.write(
        folder,
        Opened(None, iter([Record("shard 3 row 7", content, 0)])),
        lambda record: 0,
        size=1,
        side=side,
        cut=Cut(8),
        about={"dataset": "d", "split": "test", "source": "o/d"},
        progress=lambda done, total: None,
    )


@pytest.mark.parametrize(
    "size",
    [
        (100_000, 100_000),
        (100_000, 1),
        (1, 100_000),
        (20_000, 20_000),
        (2**31 - 1, 2**31 - 1),
        (12_000, 12_000),
        (65_000, 1),
    ],
)
def test_a_bomb_of_pixels_is_refused_before_it_is_decoded(size, tmp_path):
    refused(
        lambda: prepare(tmp_path / "d", claimed(*size)),
        "o/d: 1 of 1 images cannot be read",
        "shard 3 row 7",
    )
    assert not list(tmp_path.glob("d*"))


def test_a_real_picture_of_100_000_pixels_a_side_is_refused(tmp_path):
    Image.new("1", (100_000, 10)).save(tmp_path / "wide.png")
    refused(lambda: prepare(tmp_path / "d", tmp_path / "wide.png"), "100000x10 pixels are refused")


def test_a_line_of_pixels_is_refused_before_it_is_enlarged(tmp_path):
    Image.new("RGB", (60_000, 2)).save(tmp_path / "thin.png")
    line = Cut(224)
    with pytest.raises(ValueError, match="6720000x224 pixels are refused"):
        cache.decode(Record("thin", tmp_path / "thin.png", 0), None, line)


def test_what_pillow_gives_to_other_programs_is_not_opened(tmp_path):
    content = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(ran) (w) file\n%%EOF\n"
    )
    assert Image.open(io.BytesIO(content)).format == "EPS"
    refused(lambda: prepare(tmp_path / "d", content), "cannot identify image file")


@pytest.mark.parametrize("kind", cache.FORMATS)
def test_every_format_of_the_datasets_is_read(kind, tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(buffer := io.BytesIO(), kind)
    prepare(tmp_path / "d", buffer.getvalue())
    assert cache.read(tmp_path / "d").pixels.shape == (1, 3, 8, 8)


# Archives and arrays that claim more than they hold


def source(kind, **more):
    return HubSource(repo="a/b", revision="0" * 40, format=kind, test=("test",), **more)


def read(kind, path):
    return list(formats.read(source(kind), "test", [path]).records)


def test_a_zip_that_claims_a_gigabyte(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/0.png", bytes(10**6))
        archive.filelist[0].file_size = 2**30
    refused(
        lambda: read("zip", tmp_path / "a.zip"),
        "a.zip is damaged",
        "cat/0.png would unpack to more than 256 MB",
    )


def sparse(size):
    info = tarfile.TarInfo("s0.png")
    info.size = 1
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(size)}
    return info


def test_a_tar_with_a_hole_of_a_terabyte(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(sparse(10**12), io.BytesIO(b"x"))
    refused(
        lambda: read("tar", tmp_path / "0.tar"),
        "0.tar is damaged",
        "would unpack to more than 256 MB",
    )


def test_a_tar_whose_member_ends_after_the_file(tmp_path):
    info = tarfile.TarInfo("s0.png")
    info.size = 10**13
    (tmp_path / "0.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(lambda: read("tar", tmp_path / "0.tar"), "0.tar is damaged")


def test_a_parquet_that_claims_gigabytes(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(parquet([(0, png(0))], ["a"]))
    assert read("parquet", tmp_path / "a.parquet")
    monkeypatch.setattr(formats, "GROUP", 100)
    refused(
        lambda: read("parquet", tmp_path / "a.parquet"),
        "a.parquet is damaged",
        "would unpack to more than",
    )


def npy(shape, dtype="<i8"):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(64)


def npz(path, arrays, size=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
        if size:
            archive.filelist[-1].file_size = size


@pytest.mark.parametrize("shape", [(10**13,), (2**62, 2**62), (-1,), (2**31, 4)])
def test_outcomes_that_claim_a_giant_shape(tmp_path, shape):
    npz(
        tmp_path / "a.npz",
        {name: npy(shape) for name in ("labels", "clean", "adversarial", "perturbation")},
    )
    refused(lambda: Outcomes.read(tmp_path / "a.json"), "a.npz is missing or damaged")


def test_outcomes_that_unpack_to_gigabytes(tmp_path):
    npz(tmp_path / "a.npz", {"labels": npy((8,))}, size=2**31)
    refused(
        lambda: Outcomes.read(tmp_path / "a.json"),
        "a.npz is missing or damaged",
        "more than 256 MB",
    )


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([0, 1, 2, 2**40])},  # counted class by class, this would take terabytes
        {"labels": np.array([0, 1, 2, -1])},
        {"clean": np.zeros(3, np.int64)},
        {"perturbation": np.zeros((4, 4), np.float32)},
        {"labels": np.array(["a", "b", "c", "d"])},
        {"classes": np.array(["one", "two"])},
        {"classes": np.zeros(9)},
        {name: np.zeros(0, np.int64) for name in ("labels", "clean", "adversarial")}
        | {"perturbation": np.zeros(0, np.float32)},
    ],
)
def test_outcomes_whose_arrays_do_not_fit(tmp_path, change):
    np.savez(
        tmp_path / "a.npz",
        **{
            name: array
            for name, array in {**vars(outcomes()), **change}.items()
            if array is not None
        },
    )
    refused(lambda: Outcomes.read(tmp_path / "a.json"), "a.npz is missing or damaged")


@pytest.mark.parametrize(
    "change",
    [
        {"scale": np.float64(0)},
        {"scale": np.float64("nan")},
        {"pixels": np.zeros((1, 3, 2, 3), np.uint8)},
    ],
)
def test_samples_that_cannot_be_shown(tmp_path, change):
    arrays = {
        "positions": np.array([0]),
        "pixels": np.zeros((1, 3, 2, 2), np.uint8),
        "change": np.zeros((1, 3, 2, 2), np.int8),
    }
    np.savez(tmp_path / "a.samples.npz", **{**arrays, "scale": np.float64(0.5), **change})
    refused(lambda: Samples.read(tmp_path / "a.json"), "a.samples.npz is missing or damaged")


@pytest.mark.parametrize("name", ["pixels", "labels"])
def test_a_prepared_split_that_claims_terabytes(tmp_path, name):
    prepare(tmp_path / "d", png(0))
    (tmp_path / "d" / f"{name}.npy").write_bytes(
        npy((10**13,), "|u1" if name == "pixels" else "<i8")
    )
    refused(lambda: cache.read(tmp_path / "d"), "is damaged")


# Weights


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(make_clip(tmp_path_factory.mktemp("clip") / "vit").backbone)


def test_a_safetensors_header_that_claims_terabytes(tmp_path, clip):
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    ).encode()
    for name, content in {
        "claim": struct.pack("<Q", len(header)) + header,
        "length": struct.pack("<Q", 2**63) + header,
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        refused(lambda path=path: Checkpoint.read(path), str(path), "is damaged")
        refused(lambda path=path: load_tower(str(path), clip), str(path), "is damaged")


def test_an_archive_of_weights_that_unpacks_to_more_than_it_holds(tmp_path, clip):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in whole.infolist():
            bomb.writestr(member.filename, whole.read(member))
    refused(
        lambda: load_tower(str(tmp_path / "a.pt"), clip),
        "a.pt is refused: it would unpack to more than it holds",
    )


def test_a_state_dict_that_holds_itself(tmp_path, clip):
    content = {"a": torch.zeros(1)}
    content["state_dict"] = content
    torch.save(content, tmp_path / "a.pt")
    refused(lambda: load_tower(str(tmp_path / "a.pt"), clip), "a.pt holds no state dict")


@pytest.mark.parametrize("kind", ["sparse", "complex", "meta", "number", "key"])
def test_tensors_that_are_no_weights(tmp_path, clip, kind):
    weights = dict(clip.encoder.state_dict())
    changed = {
        "sparse": lambda each: each.to_sparse(),
        "complex": lambda each: each.to(torch.complex64),
        "meta": lambda each: each.to("meta"),
        "number": lambda each: 3,
        "key": lambda each: each,
    }
    weights[7 if kind == "key" else "proj"] = changed[kind](weights["proj"])
    torch.save(weights, tmp_path / "a.pt")
    refused(lambda: load_tower(str(tmp_path / "a.pt"), clip), "a.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": []},
        {"sources": {"backbone": 1}},
        {"history": {"a": 1}},
        {"history": [{"loss": 1.0}]},
        {"recipe": {"lr": "x"}},
        {"recipe": {"objective": "tecoa", "eps": 5}},
        {"recipe": {"objective": "tecoa", "options": []}},
        {"recipe": {"objective": "tecoa", "trainable": "prompts", "options": {"tokens": 10**12}}},
        {"recipe": {"objective": "tecoa", "trainable": "prompts", "seed": 10**30}},
        {"recipe": {"objective": "tecoa", "epochs": "4"}},
        {"recipe": {"objective": "tecoa", "epoch": 4}},
    ],
)
def test_a_checkpoint_with_strange_metadata(tmp_path, clip, change):
    metadata = {
        "recipe": {"objective": "tecoa"},
        "sources": {"backbone": clip.digest},
        "history": [],
        **change,
    }
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(
        {"a": torch.zeros(1)}, path, {name: json.dumps(value) for name, value in metadata.items()}
    )
    refused(lambda: load_tower(str(path), clip), str(path))


@pytest.mark.parametrize("change", [{"done": "x"}, {"loss": []}, {"history": [{"loss": "low"}]}])
def test_a_training_begun_with_strange_numbers(tmp_path, change):
    whole = {"done": 1, "loss": 1.0, "correct": 2.0, "seconds": 3.0, "history": []}
    path = tmp_path / "a.partial"
    Partial(**{**whole, **change}, tensors={"a": torch.zeros(1)}).write(path, {})
    refused(lambda: Partial.read(path, {}), "a.partial is damaged (its numbers: ", *change)


def test_a_backbone_whose_tokenizer_is_code_is_refused():
    _check_tokenizer({"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}, "hf-hub:a/b")
    config = {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}
    refused(
        lambda: _check_tokenizer(config, "hf-hub:a/b"),
        "hf-hub:a/b is not safe: its tokenizer is remote code",
    )


@pytest.mark.parametrize("module", ["evil_module", "os", "antigravity"])
def test_a_backbone_imports_no_package(module, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    refused(
        lambda: load_clip(f"package:{module}/clip"),
        "is not in a package of zsrobust or of a plugin",
    )
    assert module == "os" or module not in sys.modules


# Local copies


def cifar(tmp_path):
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    build("cifar10", tmp_path, [(0, pixels[0]), (1, pixels[1])], ["cat", "dog"])
    return tmp_path / LAYOUTS["cifar10"].folder


def test_a_pickle_that_asks_for_gigabytes_of_memory(tmp_path):
    folder = cifar(tmp_path)
    (folder / "test_batch").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    refused(lambda: LAYOUTS["cifar10"].read(folder, "test"), "test_batch")


def test_a_pickle_encodes_nothing_but_latin1(tmp_path):
    folder = cifar(tmp_path)
    (folder / "test_batch").write_bytes(b"c_codecs\nencode\n(Vabc\nVzlib_codec\ntR.")
    refused(lambda: LAYOUTS["cifar10"].read(folder, "test"), "the encoding 'zlib_codec'")


def test_annotations_name_no_file_outside(tmp_path):
    build("fgvc_aircraft", tmp_path, [(0, np.zeros((8, 8, 3), np.uint8))], ["707-320"])
    folder = tmp_path / LAYOUTS["fgvc_aircraft"].folder
    (folder / "data/images_variant_test.txt").write_text("../../../secret 707-320\n")
    refused(lambda: list(LAYOUTS["fgvc_aircraft"].read(folder, "test").records), "which is outside")


# Nothing is written outside


@pytest.mark.parametrize("name", ["../evil", "/abs/evil", "a/../../evil", "..\\evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_write_nothing(tmp_path, monkeypatch, name, kind):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    path = tmp_path / "in" / f"0.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            for extension, content in (("png", png(0)), ("cls", b"0")):
                info = tarfile.TarInfo(f"{name}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{name}.png", png(0))
            archive.writestr("cat/0.png", png(0))
    before = sorted(tmp_path.rglob("*"))
    for record in read(kind, path):
        assert record.image == png(0)
    assert sorted(tmp_path.rglob("*")) == before


HOSTILE = [
    "../../evil",
    "/etc/evil",
    "..",
    ".",
    "",
    "a\0b",
    "a\nb",
    "con",
    "é/ü",
    "<b>",
    "a" * 300,
    "../" * 200,
    "ä" * 500,
    ".hidden",
    "a b|c",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_stay_inside_the_results_folder(tmp_path, text):
    folder = tmp_path / "results"
    result = make(text, text, text, 10**12)
    identity = replace(result.identity, suite=text, protocol=text, seed=2**32)
    result = replace(result, identity=identity)
    if set(text) & {"\0", "\n"}:
        refused(lambda: results.write(result, outcomes(), folder), "cannot be stored")
        return
    path = results.write(result, outcomes(), folder)
    assert path.resolve().is_relative_to(folder.resolve())
    assert len(path.relative_to(folder).parts) == 5
    assert sorted(each.name for each in tmp_path.iterdir()) == ["results"]
    assert results.read(path).identity == result.identity


def test_long_names_are_told_apart_and_others_stay_as_they_are():
    assert slug("a" * 200) == "a" * 200
    assert len(slug("a" * 201)) == len(slug("b" * 10_000)) == 200
    assert slug("a" * 300 + "b") != slug("a" * 300 + "c")


@pytest.mark.parametrize(
    "name", ["a" * 300 + ".toml", "a\0b.toml", "~nobody-here/a.toml", "a/" * 3000 + ".toml"]
)
def test_a_file_that_no_disk_can_hold_is_missing(name):
    for load in (
        suites.load,
        protocols.load,
        load_plugin_file,
        lambda name: entries.load_entries(Path(name)),
    ):
        refused(lambda load=load: load(name))


@pytest.mark.parametrize("place", ["~nobody-here/a.pt", "a" * 300 + ".pt", "/" + "b/" * 3000])
def test_a_place_that_no_disk_can_hold_has_no_weights(clip, place):
    refused(lambda: load_tower(place, clip), "No weights at")


# Texts


@pytest.mark.parametrize("spec", ["weights:a\nb.pt", "clip\0", "a\x1b[2J", "pgd:steps=\u2028"])
def test_a_spec_is_a_line_of_text(spec):
    line = refused(lambda: split_spec(spec), "has control characters")
    assert "\x1b" not in line


def test_an_error_is_one_line_whatever_it_names():
    assert str(ZSRobustError("a\nb\x1b[2J\ud800")) == "a\\nb\\x1b[2J\\ud800"


@pytest.mark.parametrize("text", ["9" * 4000 + "/1", "1/" + "9" * 4000, "1e400", "9" * 5000])
def test_numbers_beyond_floats(text):
    refused(lambda: parse_eps(text), "is not a bound")
    refused(lambda: parse_fields({"a": "9" * 4000 + "/1"}, {"a": float}, "it"), "is not a number")


@pytest.mark.parametrize(
    "change",
    [
        {"title": 5},
        {"title": "a\nb"},
        {"backbone": []},
        {"train_on": {}},
        {"limits": {"pgd10": True}},
        {"limits": []},
        {"attack": []},
        {"recipe": {"lr": [1]}},
        {"sweep": 5},
        {"sweep": [[]]},
        {"printed": "12"},
        {"like": 5},
        {"like": []},
        {"second": 1},
        {"datasets": [1]},
        {"attack": {"eps": "1/255", "steps": "many"}},
        {"attack": {"eps": "1/255", "steps": 1.5}},
        {"recipe": {"epochs": 1.5}},
        {"recipe": {"encoder": {"lr": "high"}}},
    ],
)
def test_a_suite_of_other_types_is_refused(tmp_path, change):
    base = {
        "title": "t",
        "backbone": "b",
        "train_on": "a",
        "datasets": ["a"],
        "attack": {"eps": "1/255"},
    }
    (tmp_path / "mine.toml").write_text(toml({**base, **change}))

    def use():
        suite = suites.load(str(tmp_path / "mine.toml"))
        attacks.create("pgd10", suite.attack)
        defenses.create("tecoa").recipes(suite)

    refused(use)


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 5000, "a = " + "[" * 5000 + "]" * 5000, "\ud800", "a = 'b\x00'"]
)
def test_toml_without_end(tmp_path, text):
    (tmp_path / "mine.toml").write_text(text, errors="surrogatepass")
    for load in (suites.load, protocols.load, lambda name: entries.load_entries(Path(name))):
        refused(lambda load=load: load(str(tmp_path / "mine.toml")))


@pytest.mark.parametrize(
    "change",
    [
        {"flags": "one"},
        {"flags": [1]},
        {"flags": ["a\nb"]},
        {"messages": "one"},
        {"messages": [1]},
        {"messages": ["a\nb"]},
        {"seconds": "long"},
        {"seconds": float("nan")},
        {"training": {"history": 5}},
        {"training": {"history": [{"loss": 1.0}]}},
        {"training": {"epoch_seconds": "x"}},
        {"versions": []},
        {"device": None},
        {"images": 10**400},
        {"predicted": {"seconds": "x"}},
        {"error": 5},
        {"identity.seed": "0"},
        {"identity.suite": 5},
        {"identity.attack.eps": 0.1},
        {"identity.attack.eps": "8"},
        {"identity.dataset.limit": "4"},
        {"identity.dataset.title": ["x"]},
        {"identity.defense.title": "a\x1b[2J"},
        {"identity.defense.note": "\ud800"},
        {"identity.defense.note": float("inf")},
    ],
)
def test_a_result_of_other_types_is_refused(tmp_path, change):
    result = make()
    path = results.write(result, outcomes(), tmp_path)
    stored = json.loads(path.read_text())
    for name, value in change.items():
        place = stored
        *parts, key = name.split(".")
        for part in parts:
            place = place[part]
        place[key] = value
    del stored["digest"]
    path.write_text(json.dumps({**stored, "digest": store._digest(stored)}))
    refused(lambda: results.read(path), str(path), "is not a result of zsrobust")


def test_json_without_end(tmp_path):
    path = results.write(make(), outcomes(), tmp_path)
    path.write_text("[" * 10**5)
    refused(lambda: results.read(path), "is not a result of zsrobust")


# No code


def calls():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield (
                    path.relative_to(PACKAGE).as_posix(),
                    node,
                    ast.unparse(node.func),
                    {each.arg: ast.unparse(each.value) for each in node.keywords},
                )


CALLS = list(calls())


def test_no_call_runs_what_it_reads():
    names = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
    endings = (
        "pickle.load",
        "pickle.loads",
        "yaml.load",
        "marshal.loads",
        "os.system",
        "os.popen",
        "os.execv",
        "extractall",
        "unpack_archive",
        "shelve.open",
        "joblib.load",
        "read_pickle",
        "torch.jit.load",
        "hub.load",
        "load_module",
        "run_path",
        "run_module",
    )
    bad = [
        f"{where}: {name}"
        for where, _, name, _ in CALLS
        if name in names or name.endswith(endings) or name.startswith("subprocess.")
    ]
    assert bad == [
        "datasets/sources/layouts.py: subprocess.run"
    ]  # our own matlab.py, which a damaged file may end
    assert not [
        where
        for where, _, _, how in CALLS
        if how.get("shell") == "True" or how.get("trust_remote_code", "False") != "False"
    ]


def test_torch_and_numpy_load_data_only():
    seen = 0
    for where, node, name, how in CALLS:
        if name == "torch.load" or [ast.unparse(each) for each in node.args[:1]] == ["torch.load"]:
            seen += 1
            assert how["weights_only"] == "True", where
        if name in ("np.load", "np.fromfile", "np.memmap"):
            assert how.get("allow_pickle", "False") == "False", where
    assert seen == 2


def test_modules_are_imported_by_name_in_three_places():
    """Our own homes, libraries of the extra `layouts`, and plugins, which are code and say so."""
    found = {
        (where, name)
        for where, _, name, _ in CALLS
        if "import_module" in name or "spec_from_file" in name or name.endswith("exec_module")
    }
    assert found == {
        ("__init__.py", "import_module"),
        ("datasets/sources/layouts.py", "importlib.import_module"),
        ("core/registry.py", "importlib.util.spec_from_file_location"),
        ("core/registry.py", "spec.loader.exec_module"),
    }


def test_pickles_are_read_in_two_places_through_readers_that_know_arrays_only():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        and {alias.name for alias in node.names}
        & {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    }
    assert found == {"datasets/sources/pickles.py", "defenses/weight_files.py"}
    assert issubclass(Unpickler, pickle._Unpickler)
    assert "find_class" in vars(Unpickler)
