"""One small dataset in every format that people have data in; the red level of the first pixel numbers its images."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import torch
from numpy.typing import NDArray
from PIL import Image

NAMES = ("bïrd", "cat", "dog", "fox")
TRAIN, TEST = 24, 8
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


_HELD: dict[str, Arrays] = {}


@contextmanager
def held(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Iterator[None]:
    """Within the block the training set of every format is another one: uint8 [N, 32, 32, 3] and int64 [N] below 4."""
    _HELD["train"] = images, labels
    try:
        yield
    finally:
        _HELD.clear()


def arrays(split: str) -> Arrays:
    """Images uint8 [N, 32, 32, 3] and labels int64 [N] of a split."""
    if split in _HELD:
        return _HELD[split]
    count, first = (TRAIN, 0) if split == "train" else (TEST, 100)
    images = np.random.default_rng(first).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = first + np.arange(count)
    return images, np.arange(count) % len(NAMES)


def png(image: NDArray[np.uint8]) -> bytes:
    """An image without a loss."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def samples(split: str) -> Iterator[tuple[int, bytes, int]]:
    """Number, PNG and label of each image."""
    images, labels = arrays(split)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        yield number, png(image), label


def _folder(root: Path, split: str) -> None:
    for number, content, label in samples(split):
        (root / NAMES[label]).mkdir(parents=True, exist_ok=True)
        (root / NAMES[label] / f"ü{number:02d}.png").write_bytes(content)


def class_folders(root: Path) -> Path:
    _folder(root / "data", "train")
    return root / "data"


def split_folders(root: Path) -> Path:
    _folder(root / "data" / "training", "train")
    _folder(root / "data" / "val", "test")
    return root / "data"


def metadata_csv(root: Path) -> Path:
    for split in ("train", "test"):
        folder = root / "data" / split
        folder.mkdir(parents=True)
        with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("file_name", "label", "caption"))
            for number, content, label in samples(split):
                (folder / f"{number}.png").write_bytes(content)
                writer.writerow((f"{number}.png", NAMES[label], 'says "a,b"\nand more'))
    return root / "data"


def metadata_lines(root: Path) -> Path:
    (root / "data" / "images").mkdir(parents=True)
    lines = []
    for number, content, label in samples("train"):
        (root / "data" / "images" / f"{number}.png").write_bytes(content)
        lines.append(json.dumps({"file_name": f"images/{number}.png", "label": NAMES[label], "size": number}))
    (root / "data" / "metadata.jsonl").write_text("\n".join(lines))
    return root / "data"


def table(split: str) -> Any:
    """A table as Hugging Face writes it."""
    told = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(NAMES)}}
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
            ("note", pa.string()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": told}})},
    )
    rows = [
        {"image": {"bytes": content, "path": f"{number}.png"}, "label": label, "note": f"n{number}"}
        for number, content, label in samples(split)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def parquet_file(root: Path) -> Path:
    _, labels = arrays("train")
    rows = {"bild": [content for _, content, _ in samples("train")], "target": [NAMES[label] for label in labels]}
    pq.write_table(pa.table(rows), root / "data.parquet", compression="zstd", row_group_size=7)
    return root / "data.parquet"


def hub_folder(root: Path) -> Path:
    folder = root / "data" / "data"
    folder.mkdir(parents=True)
    train = table("train")
    pq.write_table(train.slice(0, 10), folder / "train-00000-of-00002.parquet")
    pq.write_table(train.slice(10), folder / "train-00001-of-00002.parquet", row_group_size=5)
    pq.write_table(table("test"), folder / "test-00000-of-00001.parquet")
    return root / "data"


def saved_to_disk(root: Path) -> Path:
    (root / "data").mkdir()
    (root / "data" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split in ("train", "test"):
        folder = root / "data" / split
        folder.mkdir()
        rows = table(split)
        place = str(folder / "data-00000-of-00001.arrow")
        with pa.OSFile(place, "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=5)
        (folder / "dataset_info.json").write_text('{"splits": {"train": {"num_examples": 24}}}')
        (folder / "state.json").write_text('{"_fingerprint": "f00"}')
    return root / "data"


def medmnist(root: Path) -> Path:
    named = {}
    for split in ("train", "test"):
        images, labels = arrays(split)
        named |= {f"{split}_images": images, f"{split}_labels": labels[:, None].astype(np.uint8)}
    np.savez_compressed(
        root / "data.npz", **named, val_images=named["test_images"], val_labels=named["test_labels"], train_id=range(24)
    )
    return root / "data.npz"


def plain_npz(root: Path) -> Path:
    images, labels = arrays("train")
    np.savez(root / "data.npz", x=images, y=labels, classes=np.array(NAMES))
    return root / "data.npz"


def npy_files(root: Path) -> Path:
    (root / "data").mkdir()
    for split in ("train", "test"):
        images, labels = arrays(split)
        np.save(root / "data" / f"X_{split}.npy", images.transpose(0, 3, 1, 2))
        np.save(root / "data" / f"y_{split}.npy", np.array(NAMES)[labels])
    return root / "data"


def npy_pair(root: Path) -> Path:
    images, labels = arrays("train")
    np.save(root / "images.npy", images.astype(np.float32) / 255)
    np.save(root / "labels.npy", labels)
    return root / "images.npy"


def safetensors_file(root: Path) -> Path:
    images, labels = arrays("train")
    named = {"images": images, "labels": labels.astype(np.int32), "other": np.arange(3.0)}
    safetensors.numpy.save_file(named, root / "data.safetensors", metadata={"of": "somebody"})
    return root / "data.safetensors"


def tensors(root: Path) -> Path:
    images, labels = arrays("train")
    torch.save({"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}, root / "data.pt")
    return root / "data.pt"


def tensor_pair(root: Path) -> Path:
    images, labels = arrays("train")
    torch.save((torch.from_numpy(images), torch.from_numpy(labels)), root / "data.pth")
    return root / "data.pth"


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """A plain file in an archive."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), 1_000_000
    archive.addfile(info, io.BytesIO(content))


def webdataset(root: Path) -> Path:
    with tarfile.open(root / "data.tar", "w") as archive:
        for number, content, label in samples("train"):
            add_member(archive, f"{number:04d}.png", content)
            add_member(archive, f"{number:04d}.cls", NAMES[label].encode())
            add_member(archive, f"{number:04d}.note.txt", b"something")
    return root / "data.tar"


def webdataset_shards(root: Path) -> Path:
    (root / "data").mkdir()
    for split, shards in (("train", 2), ("test", 1)):
        every = list(samples(split))
        for shard in range(shards):
            with tarfile.open(root / "data" / f"{split}-{shard:05d}.tar", "w") as archive:
                for number, content, label in every[shard::shards]:
                    add_member(archive, f"{number}.json", json.dumps({"label": NAMES[label]}).encode())
                    add_member(archive, f"{number}.webp.png", content)
    return root / "data"


def packed_folder(root: Path) -> Path:
    with tarfile.open(root / "data.tar.gz", "w:gz") as archive:
        for split in ("train", "test"):
            for number, content, label in samples(split):
                add_member(archive, f"set/{split}/{NAMES[label]}/{number}.v1.png", content)
    return root / "data.tar.gz"


def _records(split: str, coarse: bool) -> NDArray[np.uint8]:
    images, labels = arrays(split)
    fine = labels.astype(np.uint8)[:, None]
    columns = [np.zeros_like(fine), fine] if coarse else [fine]
    return np.concatenate([*columns, images.transpose(0, 3, 1, 2).reshape(len(images), -1)], axis=1)


def cifar10(root: Path) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    train = _records("train", False)
    train[:10].tofile(folder / "data_batch_1.bin")
    train[10:].tofile(folder / "data_batch_2.bin")
    _records("test", False).tofile(folder / "test_batch.bin")
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n", encoding="utf-8")
    return folder


def cifar100(root: Path) -> Path:
    folder = root / "cifar-100-binary"
    folder.mkdir()
    _records("train", True).tofile(folder / "train.bin")
    _records("test", True).tofile(folder / "test.bin")
    (folder / "fine_label_names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    return folder


def cifar_archive(root: Path) -> Path:
    cifar10(root)
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(root / "cifar-10-batches-bin", "cifar-10-batches-bin")
    return root / "cifar-10-binary.tar.gz"


FORMATS: dict[str, Callable[[Path], Path]] = {
    made.__name__: made
    for made in (
        class_folders,
        split_folders,
        metadata_csv,
        metadata_lines,
        parquet_file,
        hub_folder,
        saved_to_disk,
        medmnist,
        plain_npz,
        npy_files,
        npy_pair,
        safetensors_file,
        tensors,
        tensor_pair,
        webdataset,
        webdataset_shards,
        packed_folder,
        cifar10,
        cifar100,
        cifar_archive,
    )
}
"""Name -> what writes the dataset below a folder and gives what is to be read."""
WITHOUT_TEST = (
    "class_folders",
    "metadata_lines",
    "parquet_file",
    "plain_npz",
    "npy_pair",
    "safetensors_file",
    "tensors",
    "tensor_pair",
    "webdataset",
)
NUMBERED = ("medmnist", "npy_pair", "safetensors_file", "tensors", "tensor_pair")
"""Formats whose labels are numbers without names."""
