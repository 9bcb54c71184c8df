"""The authors' published files, by reference: a manifest, and downloads that are checked against it.

``data/released.csv`` lists every file of github.com/RobustNLP/DeRTa (MIT) at one commit with its git blob id and, if it
was measured, size and sha256. The files hold real harmful questions and answers; none is copied into this project. If
``DERTA_RELEASED`` names a local copy of the repository, that is read instead of the network.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from derta.files import read_csv, read_jsonl
from derta.material import Example, Material, Triple
from derta.runs import DATA, cache_dir

COMMIT = "70bdb52b5e139f32f5a723b5f09d2b0befa81657"
HOME = f"https://raw.githubusercontent.com/RobustNLP/DeRTa/{COMMIT}/"
SAFETY = "data/train/safety_beaver_safe_and_unsafe_response.json"
HELPFULNESS = tuple(f"data/train/helpfulness_unsencor_wizardlm_60k_part_{part}.json" for part in range(6))


@dataclass(frozen=True)
class File:
    """A released file; `bytes` and `sha256` are empty if they were not measured."""

    path: str
    git_blob_sha1: str
    bytes: str
    sha256: str


@cache
def manifest() -> dict[str, File]:
    """Return the released files by their path in the repository."""
    rows = read_csv(DATA / "released.csv", ("path", "git_blob_sha1"))
    return {row["path"]: File(**row) for row in rows}


def fetch(path: str) -> Path:
    """Return a released file, checked: from `DERTA_RELEASED` if that is set, otherwise from the cache or the network.

    An interrupted download is continued.

    Raises:
        ValueError: the manifest does not list `path`, or the file that was found or downloaded is not the listed one.
        FileNotFoundError: the local copy lacks it.
    """
    if path not in manifest():
        raise ValueError(f"{path}: not a released file; data/released.csv lists them")
    file = manifest()[path]
    if local := os.environ.get("DERTA_RELEASED"):
        root = Path(local).expanduser()
        # A copy may have other folders, so the file is found by its name and checked by its content.
        found = [f for f in (root / path, *sorted(root.rglob(Path(path).name))) if f.is_file()]
        if not found:
            raise FileNotFoundError(f"{root / path}: DERTA_RELEASED lacks this file; add it, or unset DERTA_RELEASED")
        verify(found[0], file)
        return found[0]
    source = pooch.create(cache_dir() / "released", HOME, registry={path: None}, retry_if_failed=3, allow_updates=True)
    fetched = Path(source.fetch(path, downloader=_download))
    try:
        verify(fetched, file)
    except ValueError:
        fetched.unlink()
        raise
    return fetched


def verify(found: Path, file: File) -> None:
    """Raise a ValueError if the file at `found` is not the listed one, byte for byte."""
    content = found.read_bytes()
    blob = blob_sha1(content)
    if blob == file.git_blob_sha1 and file.sha256 in ("", hashlib.sha256(content).hexdigest()):
        return
    if blob_sha1(content.replace(b"\r\n", b"\n")) == file.git_blob_sha1:
        raise ValueError(
            f"{found}: git converted its line ends to those of Windows; clone the repository again, with "
            "git clone -c core.autocrlf=false"
        )
    raise ValueError(
        f"{found}: not the file of the manifest ({len(content)} bytes, git blob {blob[:12]}, expected "
        f"{file.git_blob_sha1[:12]}); it was truncated, renamed or altered: delete it and fetch it again"
    )


def blob_sha1(content: bytes) -> str:
    """Return the id that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _download(url: str, output_file: str, source: pooch.Pooch) -> None:
    """Download with a progress bar into a part file that a later try continues (a downloader for pooch)."""
    part = Path(source.path) / (hashlib.sha256(url.encode()).hexdigest()[:16] + ".part")
    done = part.stat().st_size if part.exists() else 0
    # Ranges count the bytes that are sent, so a compressed download could not be continued.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(url, stream=True, timeout=60, headers=headers) as answer:
        # 416: nothing is left to get.
        if answer.status_code != 416:
            answer.raise_for_status()
            resumed = answer.status_code == 206
            size = int(answer.headers.get("Content-Length", 0)) + done * resumed
            with (
                part.open("ab" if resumed else "wb") as file,
                tqdm(total=size, initial=done * resumed, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as bar,
            ):
                for chunk in answer.iter_content(1 << 13):
                    bar.update(file.write(chunk))
    shutil.move(part, output_file)


def training_material(triples: int = 3000, helpful: int = 60_000) -> Material:
    """Return the paper's own training data: the released triples and the uncensored Evol-Instruct samples.

    As in the authors' generator, DeRTa's triples are the first 3,000 rows, and the 6K (q, r) of vanilla continue with
    the next 3,000, which are other queries. recaug, for which the generator uses 6,000 queries once, has 3,000 twice
    here.

    Raises:
        ValueError: the files hold fewer rows, or a row lacks a field.
    """
    path = fetch(SAFETY)
    rows = list(read_jsonl(path, {"instruction": str, "output": str, "safe_response": str}))
    if len(rows) < 2 * triples:
        raise ValueError(
            f"{path}: {triples} triples and as many further (q, r) need {2 * triples} rows, not {len(rows)}"
        )
    drawn = []
    for i, row in enumerate(rows[:triples]):
        further = rows[triples + i]
        again = (further["instruction"], further["safe_response"])
        id = f"released-{i}"
        drawn.append(Triple(id, id, row["instruction"], row["safe_response"], row["output"], again))
    examples: list[Example] = []
    for part in HELPFULNESS:
        if len(examples) < helpful:
            for row in read_jsonl(fetch(part), {"instruction": str, "output": str}):
                examples.append(Example(f"evol-{len(examples)}", "", row["instruction"], row["output"]))
    if len(examples) < helpful:
        raise ValueError(f"{helpful} helpful samples asked for, but the six files hold {len(examples)}")
    return Material(tuple(drawn), tuple(examples[:helpful]))
