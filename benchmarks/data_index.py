"""The index of a data set of RefCOCO's size: seconds the first time, seconds from its cache, peak memory.

    python benchmarks/data_index.py --output results/tables/data_index.csv

Makes instances.json and a refs pickle to size in a temporary folder (142,210 expressions of 50,000 objects among
196,771 annotations on 20,000 images of 640 x 480; polygons of about 30 points, one object in four has several), then
reads it twice, each time in a fresh process. About a minute and 300 MB of disk; bounds: 60 s, 2 s, 2 GB.
"""

import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measured import parser, report

NUM_IMAGES, NUM_ANNOTATIONS, NUM_OBJECTS, NUM_EXPRESSIONS = 20_000, 196_771, 50_000, 142_210
WIDTH, HEIGHT = 640, 480
POLYGONS_PER_OBJECT = (0.75, 0.13, 0.07, 0.05)  # shares of objects with 1, 2, 3, 4 polygons

READ = """
import json, resource, sys, time
from magnet.data import read_refer
start = time.perf_counter()
table = read_refer(sys.argv[1], "made", "unc")
seconds = time.perf_counter() - start
unit = 2**20 if sys.platform == "darwin" else 2**10
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
found = {"expressions": len(table), "objects": int(table["ref_id"].nunique())}
print(json.dumps({"seconds": seconds, "memory": memory} | found))
"""


def polygon(rng: np.random.Generator, centre: np.ndarray, radius: float) -> list[float]:
    """A star-shaped outline [x0, y0, x1, y1, ...], clipped to the picture, with two decimals as COCO writes them."""
    num_points = int(rng.integers(15, 46))
    angles = np.sort(rng.uniform(0, 2 * np.pi, num_points))
    reach = radius * rng.uniform(0.6, 1.2, num_points)
    points = centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.round(np.clip(points, 0, [WIDTH, HEIGHT]), 2).ravel().tolist()


def annotation(rng: np.random.Generator, ann_id: int) -> dict:
    num_polygons = int(rng.choice(len(POLYGONS_PER_OBJECT), p=POLYGONS_PER_OBJECT)) + 1
    centre = rng.uniform([0.1 * WIDTH, 0.1 * HEIGHT], [0.9 * WIDTH, 0.9 * HEIGHT])
    radius = rng.uniform(20, 160)
    centres = centre + rng.normal(0, 0.6 * radius, (num_polygons, 2)) * (num_polygons > 1)
    centres = np.clip(centres, 10, [WIDTH - 10, HEIGHT - 10])
    return {
        "segmentation": [polygon(rng, each, radius / num_polygons**0.5) for each in centres],
        "iscrowd": 0,
        "image_id": ann_id % NUM_IMAGES,
        "category_id": int(rng.integers(1, 81)),
        "bbox": [float(value) for value in np.round([*(centre - radius), 2 * radius, 2 * radius], 2)],
        "area": float(radius**2),
        "id": ann_id,
    }


def make(folder: Path) -> None:
    """Write instances.json and refs(unc).p."""
    rng = np.random.default_rng(0)
    images = [
        {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": HEIGHT, "width": WIDTH}
        for i in range(NUM_IMAGES)
    ]
    categories = [{"id": i, "name": f"category {i}", "supercategory": "thing"} for i in range(1, 81)]
    with (folder / "instances.json").open("w") as file:  # one by one: this process stays small
        file.write(f'{{"images": {json.dumps(images)}, "categories": {json.dumps(categories)}, "annotations": [')
        for ann_id in range(NUM_ANNOTATIONS):
            file.write(("," if ann_id else "") + json.dumps(annotation(rng, ann_id)))
        file.write("]}")
    (folder / "refs(unc).p").write_bytes(pickle.dumps(list(refs(rng)), protocol=2))


def refs(rng: np.random.Generator):
    """Refs whose sentences have RefCOCO's lengths and a long-tailed vocabulary of 10,000 words."""
    words = np.array(["the", "left", "man", "in", "red", "of", "next", "to", *(f"word{i}" for i in range(9_992))])
    frequency = 1 / np.arange(1, len(words) + 1)
    per_object = np.diff(np.linspace(0, NUM_EXPRESSIONS, NUM_OBJECTS + 1).astype(int))
    sent_id = 0
    for ref_id, (ann_id, num_sentences) in enumerate(
        zip(rng.permutation(NUM_ANNOTATIONS)[:NUM_OBJECTS].tolist(), per_object.tolist())
    ):
        sent_ids = list(range(sent_id, sent_id + num_sentences))
        sent_id += num_sentences
        chosen = rng.choice(words, (num_sentences, 6), p=frequency / frequency.sum())
        lengths = rng.integers(1, 7, num_sentences)
        yield {
            "ref_id": ref_id,
            "ann_id": ann_id,
            "image_id": ann_id % NUM_IMAGES,
            "category_id": 1,
            "file_name": f"COCO_train2014_{ann_id % NUM_IMAGES:012d}_{ann_id}.jpg",
            "split": "train" if ref_id % 6 else "val",
            "sent_ids": sent_ids,
            "sentences": [
                {"sent_id": each, "raw": " ".join(row[:length]), "sent": " ".join(row[:length]), "tokens": row[:length]}
                for each, row, length in zip(sent_ids, chosen.tolist(), lengths.tolist())
            ],
        }


def measure() -> list[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "made"
        folder.mkdir()
        make(folder)
        first, cached = (
            json.loads(subprocess.run([sys.executable, "-c", READ, root], check=True, capture_output=True).stdout)
            for _ in range(2)
        )
        bytes_read = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    size = f"{first['expressions']} expressions, {first['objects']} objects"
    return [
        ("source files of the index", bytes_read / 2**20, "MiB"),
        (f"index, first time, {size}", first["seconds"], "s"),
        (f"index, from its cache, {size}", cached["seconds"], "s"),
        ("peak memory, first time", first["memory"], "MiB"),
        ("peak memory, from the cache", cached["memory"], "MiB"),
    ]


def main() -> None:
    output = parser(__doc__).parse_args().output
    report(measure(), output)


if __name__ == "__main__":
    main()
