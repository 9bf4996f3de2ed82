"""Zip archives: which of them are checkpoints, and whether their records are whole."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from alignlab.errors import CheckpointError

__all__ = ["archive_format", "check_records", "find_record"]

_CHUNK = 1 << 20
_WEIGHTS = "save the weights with torch.save(model.state_dict(), FILE)"


def archive_format(path: Path) -> str:
    """Return ``PyTorch zip`` for an archive that ``torch.save`` wrote and refuse all others.

    Args:
        path: File that begins like a zip archive.

    Raises:
        CheckpointError: Truncated, a TorchScript archive, NumPy arrays, or anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:
        message = (
            f"{path} is a truncated or damaged zip archive ({path.stat().st_size:,} bytes); "
            f"copy or download it again."
        )
        raise CheckpointError(message) from error
    what, advice = _judge(names)
    if what:
        message = f"{path} is {what}; {advice}."
        raise CheckpointError(message)
    return "PyTorch zip"


def _judge(names: list[str]) -> tuple[str, str]:
    """Return what an archive of these records is and what to do; empty for a checkpoint."""
    leaves = {PurePosixPath(name).name for name in names}
    parts = {part for name in names for part in PurePosixPath(name).parts}
    programs = {"archive_format", "serialized_exported_program.json"}
    script = "save torch.save(torch.jit.load(FILE).state_dict(), OUT)"
    known = (
        ("constants.pkl" in leaves, "TorchScript archive (code and weights)", script),
        ("data.pkl" in leaves, "", ""),
        (leaves & programs, "torch.export archive (a program)", _WEIGHTS),
        (names and all(n.endswith(".npy") for n in names), "NumPy archive", _WEIGHTS),
        ("model.weights.h5" in leaves, "Keras model", _WEIGHTS),
        (parts & {"word", "xl", "META-INF"}, "document or Java archive", "pass the checkpoint"),
    )
    for applies, what, advice in known:
        if applies:
            return (f"a {what}, not a checkpoint" if what else ""), advice
    held = ", ".join(sorted(leaves)[:4]) or "nothing"
    return f"a zip archive that holds {held}", "unpack it and pass the checkpoint inside"


def find_record(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return the record of that name in the archive's one top folder.

    Args:
        archive: Open archive.
        name: Name below the top folder, such as ``data.pkl``.

    Raises:
        CheckpointError: There is no such record.
    """
    for record in archive.infolist():
        if record.filename == name or record.filename.partition("/")[2] == name:
            return record
    message = f"The archive lacks the record {name}; copy or download the file again."
    raise CheckpointError(message)


def check_records(path: Path) -> str:
    """Check every record against its checksum.

    ``torch.save`` can be told to write no checksums; then none of the records fits its own.

    Args:
        path: Archive that ``torch.save`` wrote.

    Returns:
        A sentence for the reader where the file carries no checksums; empty otherwise.

    Raises:
        CheckpointError: Some records are damaged; the text names the first.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = [record for record in archive.infolist() if record.file_size]
            bad = [record.filename for record in records if not _is_whole(path, archive, record)]
    except Exception as error:
        message = f"{path} is a damaged archive ({error}); copy or download it again."
        raise CheckpointError(message) from error
    if not bad:
        return ""
    if len(bad) == len(records) > 1:
        return "The file carries no checksums, so that damage to it cannot be seen."
    message = (
        f"{path} is damaged: {len(bad)} of {len(records)} records fail their checksum "
        f"(first {bad[0]}); copy or download it again."
    )
    raise CheckpointError(message)


def _is_whole(path: Path, archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    """Return whether a record has the checksum that the directory says."""
    if record.compress_type != zipfile.ZIP_STORED and record.file_size > 1000 * (
        record.compress_size + 1
    ):
        message = f"{path}: record {record.filename} would unpack to {record.file_size:,} bytes"
        raise CheckpointError(message)
    try:
        with archive.open(record) as stream:
            while stream.read(_CHUNK):
                pass
    except zipfile.BadZipFile:
        return False
    return True
