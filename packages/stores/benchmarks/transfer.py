"""Upload and download of a folder beside the plain call of each library, in one run; prints JSON.

    uv run python packages/stores/benchmarks/transfer.py --megabytes 500

Ours hashes, verifies and syncs; the plain call moves bytes: obstore.put and get, upload_from_filename and
download_to_filename, shutil.copytree. The servers are moto and fake-gcs-server on this machine, so figures
say what we add, not how fast a cloud is. moto reads a whole object for each range, so for S3 there is also
plain_ranges, the same ranges by obstore alone. Correctness first: what came back is compared with what went.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3] / "tests" / "helpers"))
import store_servers
from store_servers import BUCKET

from wf_formats.environment import OtherProcesses, environment
from wf_stores import download_folder, open_store, remove_upload, upload_folder
from wf_stores.store import PART_BYTES

SMALL = ("config.json", "tokenizer.json", "trainer.json", "manifest.json")


def make_folder(folder: Path, megabytes: int) -> None:
    """Like a checkpoint: two large files and some small ones."""
    folder.mkdir()
    for name, share in (("model.safetensors", 1 / 3), ("optimizer.safetensors", 2 / 3)):
        with (folder / name).open("wb") as file:
            for _ in range(round(megabytes * share)):
                file.write(os.urandom(1_000_000))
    for name in SMALL:
        (folder / name).write_bytes(os.urandom(20_000))


def same(a: Path, b: Path) -> bool:
    files = [{path.name: path.stat().st_size for path in folder.iterdir()} for folder in (a, b)]
    return files[0] == files[1] and all((a / n).read_bytes() == (b / n).read_bytes() for n in files[0])


def plain_s3(source: Path, target: Path) -> tuple[Callable[[], None], ...]:
    import obstore
    from obstore.store import S3Store

    store = S3Store(BUCKET, client_options={"allow_http": True})

    def put() -> None:
        for path in source.iterdir():
            obstore.put(store, f"plain/{path.name}", path)

    def get() -> None:
        target.mkdir()
        for path in source.iterdir():
            with (target / path.name).open("wb") as file:
                for part in obstore.get(store, f"plain/{path.name}").stream(min_chunk_size=8 << 20):
                    file.write(part)

    def get_ranges() -> None:
        target.mkdir()
        for path in source.iterdir():
            size = path.stat().st_size
            with (target / path.name).open("wb") as file:
                for start in range(0, size, PART_BYTES):
                    length = min(PART_BYTES, size - start)
                    file.write(obstore.get_range(store, f"plain/{path.name}", start=start, length=length))

    return put, get, get_ranges


def plain_gcs(source: Path, target: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    from google.cloud import storage  # type: ignore[attr-defined]

    bucket = storage.Client(project=None).bucket(BUCKET)

    def put() -> None:
        for path in source.iterdir():
            bucket.blob(f"plain/{path.name}").upload_from_filename(path)

    def get() -> None:
        target.mkdir()
        for path in source.iterdir():
            bucket.blob(f"plain/{path.name}").download_to_filename(target / path.name)

    return put, get


def plain_folder(source: Path, target: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    middle = target.with_name("middle")

    def put() -> None:
        shutil.rmtree(middle, ignore_errors=True)
        shutil.copytree(source, middle)
        os.sync()

    def get() -> None:
        shutil.copytree(middle, target)
        os.sync()

    return put, get


def timed(act: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    act()
    return time.perf_counter() - start_s


def measure(url: str, plain: Any, source: Path, work: Path, repeats: int) -> dict[str, Any]:
    """Medians in seconds and their ratios; ours and the plain call take turns."""
    store, target = open_store(url), work / "target"
    put, *gets = plain(source, target)
    downloads = dict(zip(("plain_get", "plain_ranges"), gets, strict=False))
    downloads["get"] = lambda: download_folder(store, "ours", target)
    times: dict[str, list[float]] = {key: [] for key in ("put", "plain_put", *downloads)}
    for _ in range(repeats):
        times["plain_put"].append(timed(put))
        times["put"].append(timed(lambda: upload_folder(source, store, "ours")))
        for key, act in downloads.items():
            times[key].append(timed(act))
            if not same(source, target):
                raise SystemExit(f"{url}: {key} gave other bytes")
            shutil.rmtree(target)
        remove_upload(store, "ours")
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {
        **{f"{key}_s": round(value, 3) for key, value in medians.items()},
        "put_over_plain": round(medians["put"] / medians["plain_put"], 2),
        "get_over_plain": round(medians["get"] / medians["plain_get"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stores", default="folder,gcs,s3", help="Some of folder, gcs, s3.")
    arguments = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_REGION="us-east-1")
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = work / "source"
        make_folder(source, arguments.megabytes)
        others = stack.enter_context(OtherProcesses())
        for kind in arguments.stores.split(","):
            with ExitStack() as server:
                if kind == "gcs":
                    os.environ["STORAGE_EMULATOR_HOST"] = server.enter_context(store_servers.gcs_server())
                elif kind == "s3":
                    os.environ["AWS_ENDPOINT_URL"] = server.enter_context(store_servers.s3_server())
                url = {"folder": str(work / "store"), "gcs": f"gs://{BUCKET}/x", "s3": f"s3://{BUCKET}/x"}[
                    kind
                ]
                plain = {"folder": plain_folder, "gcs": plain_gcs, "s3": plain_s3}[kind]
                results[kind] = measure(url, plain, source, work, arguments.repeats)
    facts = environment("wrinklefree-stores", "obstore", "google-cloud-storage", "moto")
    report = {"megabytes": arguments.megabytes, "stores": results, "cores_of_others": round(others.cores, 2)}
    print(json.dumps(report | facts, indent=2))


if __name__ == "__main__":
    main()
