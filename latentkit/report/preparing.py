"""What preparing will do and has done, for people. On stderr."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from latentkit.imagenet.job import Archive, Preparation, index_path, provenance_path
from latentkit.runtime.readable import readable_bytes, readable_seconds
from latentkit.runtime.terminal import print_table
from latentkit.sources.files import printable

HASHED_A_SECOND = 500e6
"""Bytes; what md5 does on one core. For the estimate alone."""


def announce(job: Preparation, console: Console) -> None:
    """Say what will be read, before anything is."""
    noted = job.noted()
    for role, path in job.archives.items():
        size = path.stat().st_size
        todo = f"to read, about {readable_seconds(size / HASHED_A_SECOND)} if the disk keeps up"
        console.print(
            f"{role}: {printable(path)}, {readable_bytes(size)}, "
            + ("read before and unchanged" if role in noted else todo)
        )
    for line in job.lacking():
        console.print(line)


def summarise(archives: Sequence[Archive], output_dir: Path, console: Console) -> None:
    """Print the table, how variants differ, and what to do next."""
    rows = [
        (
            archive.role,
            "official" if archive.official else "not official",
            readable_bytes(archive.file.size),
            "" if archive.classes is None else f"{archive.classes:,}",
            "" if archive.pictures is None else f"{archive.pictures:,}",
        )
        for archive in archives
    ]
    headings = ["archive", "md5", "size", "classes", "pictures"]
    print_table(console, "prepare: done", headings, rows, left=["md5"])
    for archive in archives:
        if archive.deviations:
            console.print(f"VARIANT {printable(archive.file.path)}: {'; '.join(archive.deviations)}")
    console.print(f"noted in {provenance_path(output_dir)}")
    for archive in archives:
        if archive.role != "devkit":
            console.print(f"index: {index_path(output_dir, archive.role)}")
