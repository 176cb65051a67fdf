"""Tiny datasets in the formats in which their authors publish them, laid out as torchvision wants them.

A picture of a binary dataset must have its size: 32 x 32 for CIFAR, 96 x 96 for STL-10 and PCAM.
"""

import json
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
from PIL import Image

Pictures = list[tuple[int, np.ndarray]]


def build(name: str, root: Path, images: Pictures, names: list[str], split: str = "test") -> None:
    """Write a dataset under a data root: (label, picture (H, W, 3)) of one split, and the names of all classes."""
    BUILDERS[name](root, images, names, split)


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {} if path.suffix == ".png" else {"format": "JPEG", "quality": 100, "subsampling": 0}
    Image.fromarray(picture).save(path, **options)


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


class Python2(pickle._Pickler):
    """Writes what Python 2 and its numpy wrote: text as bytes, arrays by numpy.core."""

    def save_text(self, text):
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    def save_global(self, each, name=None):
        if getattr(each, "__name__", "") == "_reconstruct":
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            self.memoize(each)
        else:
            super().save_global(each, name)

    dispatch = {  # noqa: RUF012  # pickle looks its methods up in this attribute of the class
        **pickle._Pickler.dispatch,
        str: save_text,
        bytes: save_text,
        type: save_global,
        type(np.arange): save_global,
        type(struct.pack): save_global,
    }


def dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Python2(file, protocol=2).dump(content)


def rows(images: Pictures, side: int) -> np.ndarray:
    pictures = np.array([picture for _, picture in images], dtype=np.uint8).reshape(
        -1, side, side, 3
    )
    return pictures.transpose(0, 3, 1, 2)


def cifar10(root, images, names, split):
    folder = root / "cifar-10-batches-py"
    files = [f"frog_s_{index:06d}.png" for index in range(len(images))]
    held = {
        "batch_label": "testing batch 1 of 1",
        "labels": [label for label, _ in images],
        "filenames": files,
    }
    dump(folder / "test_batch", {**held, "data": rows(images, 32).reshape(-1, 3072)})
    dump(
        folder / "batches.meta",
        {"num_cases_per_batch": 10000, "label_names": names, "num_vis": 3072},
    )


def cifar100(root, images, names, split):
    folder = root / "cifar-100-python"
    labels = [label for label, _ in images]
    held = {
        "fine_labels": labels,
        "coarse_labels": [label // 5 for label in labels],
        "batch_label": f"{split}ing batch",
    }
    dump(folder / split, {**held, "data": rows(images, 32).reshape(-1, 3072)})
    dump(folder / "meta", {"fine_label_names": names, "coarse_label_names": ["fish", "flowers"]})


def stl10(root, images, names, split):
    folder = root / "stl10_binary"
    write(folder / "class_names.txt", names)
    rows(images, 96).transpose(0, 1, 3, 2).tofile(folder / "test_X.bin")
    np.array([label + 1 for label, _ in images], dtype=np.uint8).tofile(folder / "test_y.bin")


def sun397(root, images, names, split):
    folder = root / "SUN397"
    write(folder / "ClassName.txt", [f"/{name[0]}/{name}" for name in names])
    for name in names:
        (folder / name[0] / name).mkdir(parents=True)
    for index, (label, picture) in enumerate(images):
        save(folder / names[label][0] / names[label] / f"sun_a{index:015d}.jpg", picture)


def food101(root, images, names, split):
    listed: dict[str, list[str]] = {name: [] for name in reversed(names)}
    for index, (label, picture) in enumerate(images):
        listed[names[label]].append(f"{names[label]}/{1000 + index}")
        save(root / "food-101/images" / names[label] / f"{1000 + index}.jpg", picture)
    (root / "food-101/meta").mkdir()
    (root / "food-101/meta/test.json").write_text(json.dumps(listed))


def oxford_pets(root, images, names, split):
    lines = []
    for index, (label, picture) in enumerate(images):
        image = f"{names[label].replace(' ', '_')}_{index + 1}"
        lines.append(f"{image} {label + 1} 2 {label + 1}")
        save(root / "oxford-iiit-pet/images" / f"{image}.jpg", picture)
    write(root / "oxford-iiit-pet/annotations/test.txt", lines)


def flowers102(root, images, names, split):
    from scipy.io import savemat

    folder = root / "flowers-102"
    for index, (_, picture) in enumerate(images):
        save(folder / "jpg" / f"image_{index + 2:05d}.jpg", picture)
    labels = np.array(
        [[102, *(label + 1 for label, _ in images)]], dtype=np.uint8
    )  # the first is for training
    savemat(folder / "imagelabels.mat", {"labels": labels})
    ids = {"trnid": [[1]], "valid": [[1]], "tstid": [[index + 2 for index in range(len(images))]]}
    savemat(
        folder / "setid.mat", {name: np.array(each, dtype=np.uint16) for name, each in ids.items()}
    )


def dtd(root, images, names, split):
    lines = []
    for index, (label, picture) in enumerate(images):
        lines.append(f"{names[label]}/{names[label]}_{index:04d}.jpg")
        save(root / "dtd/dtd/images" / lines[-1], picture)
    write(root / "dtd/dtd/labels/test1.txt", lines)


def folders(folder: Path, images: Pictures, names: list[str], file: str) -> None:
    """Write a folder a class; `file` says how an image is called by its class, and by its number within it."""
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number, picture in enumerate(
            (picture for other, picture in images if other == label), start=1
        ):
            save(folder / name / file.format(name=name, number=number, first=name[:3]), picture)


def eurosat(root, images, names, split):
    folders(root / "eurosat/2750", images, names, "{name}_{number}.jpg")


def fgvc_aircraft(root, images, names, split):
    folder = root / "fgvc-aircraft-2013b/data"
    write(folder / "variants.txt", names)
    write(
        folder / "images_variant_test.txt",
        [f"{34345 + index:07d} {names[label]}" for index, (label, _) in enumerate(images)],
    )
    for index, (_, picture) in enumerate(images):
        save(folder / "images" / f"{34345 + index:07d}.jpg", picture)


def tiny_imagenet(root, images, names, split):
    folder = root / "tiny-imagenet-200"
    write(folder / "wnids.txt", names[::-1])
    if split == "train":
        folders(folder / "train", images, names, "images/{name}_{number}.JPEG")
        for name in names:
            write(folder / "train" / name / f"{name}_boxes.txt", [f"{name}_0.JPEG\t0\t62\t63\t62"])
        return
    lines = []
    for index, (label, picture) in enumerate(images):
        lines.append(f"val_{index}.JPEG\t{names[label]}\t0\t32\t44\t62")
        save(folder / "val/images" / f"val_{index}.JPEG", picture)
    write(folder / "val/val_annotations.txt", lines)


def refolder(root: Path) -> None:
    """Give TinyImageNet's val/ a folder a class, as the scripts that people use do."""
    val = root / "tiny-imagenet-200/val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        file, name, *_ = line.split()
        (val / name).mkdir(exist_ok=True)
        shutil.move(val / "images" / file, val / name / file)
    (val / "images").rmdir()


def imagenet(root, images, names, split):
    folder = root / "imagenet" / {"test": "val"}.get(split, split)
    folders(folder, images, names, "ILSVRC2012_val_{number:08d}.JPEG")


def caltech101(root, images, names, split):
    """With the background class, of one grey image, which is no class of the benchmark."""
    folder = root / "caltech101/101_ObjectCategories"
    folders(folder, images, names, "image_{number:04d}.jpg")
    save(folder / "BACKGROUND_Google/image_0001.jpg", np.full((40, 40, 3), 128, dtype=np.uint8))


def caltech256(root, images, names, split):
    folders(root / "caltech256/256_ObjectCategories", images, names, "{first}_{number:04d}.jpg")


def stanford_cars(root, images, names, split):
    from scipy.io import savemat

    folder = root / "stanford_cars"
    corners = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"]
    annotations = np.empty(
        (1, len(images)), dtype=[(field, object) for field in [*corners, "class", "fname"]]
    )
    for index, (label, picture) in enumerate(images):
        annotations[0, index] = (*(np.uint16(30),) * 4, np.uint8(label + 1), f"{index + 1:05d}.jpg")
        save(folder / "cars_test" / f"{index + 1:05d}.jpg", picture)
    (folder / "devkit").mkdir()
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": annotations})


def pcam(root, images, names, split):
    import h5py

    (root / "pcam").mkdir(parents=True)
    arrays = {
        "x": rows(images, 96).transpose(0, 2, 3, 1),
        "y": np.array([label for label, _ in images], dtype=np.uint8),
    }
    arrays["y"] = arrays["y"].reshape(-1, 1, 1, 1)
    for key, array in arrays.items():
        with h5py.File(root / "pcam" / f"camelyonpatch_level_2_split_test_{key}.h5", "w") as file:
            file.create_dataset(key, data=array, compression="gzip")


BUILDERS = {
    function.__name__: function
    for function in (
        cifar10,
        cifar100,
        stl10,
        sun397,
        food101,
        oxford_pets,
        flowers102,
        dtd,
        eurosat,
        fgvc_aircraft,
        tiny_imagenet,
        imagenet,
        caltech101,
        caltech256,
        stanford_cars,
        pcam,
    )
}
