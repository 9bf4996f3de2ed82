"""What a file is, from its first bytes; whatever holds no weights that we read is refused here."""

from __future__ import annotations

import difflib
import pickletools
import re
from pathlib import Path
from typing import Final

from alignlab.checkpoints._archive import archive_format
from alignlab.errors import CheckpointError, MissingError

__all__ = ["LEGACY", "PICKLE", "SAFETENSORS", "ZIP", "file_format"]

ZIP: Final = "PyTorch zip"
LEGACY: Final = "PyTorch legacy"
PICKLE: Final = "pickle"
SAFETENSORS: Final = "safetensors"

_HEAD = 4096
_LONGEST_OLD_PICKLE = 2**24
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_UNPACK = "unpack it and pass the file inside"
_WEIGHTS = "save the weights with torch.save(model.state_dict(), FILE)"

_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89PNG", "an image (PNG)", "pass the checkpoint"),
    (0, b"\xff\xd8\xff", "an image (JPEG)", "pass the checkpoint"),
    (0, b"GIF8", "an image (GIF)", "pass the checkpoint"),
    (8, b"WEBP", "an image (WebP)", "pass the checkpoint"),
    (0, b"%PDF", "a PDF document", "pass the checkpoint"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or TensorFlow weights, say)", _WEIGHTS),
    (0, b"CDF\x01", "a netCDF file", "pass the checkpoint"),
    (0, b"\x93NUMPY", "a NumPy array", _WEIGHTS),
    (0, b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ", "compressed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with Zstandard", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"GGUF", "a GGUF file (quantised weights)", _WEIGHTS),
    (4, b"TFL3", "a TensorFlow Lite model", _WEIGHTS),
    (0, b"MATLAB", "a MATLAB file", _WEIGHTS),
    (0, b"\x7fELF", "an executable", "pass the checkpoint"),
    (0, b"\x04\x00\x00\x00\x01\x00\x00\x00", "a file of Lua Torch", "convert it to PyTorch first"),
)


def file_format(path: Path) -> str:
    """Return which format of weights a file has; its content decides, not its suffix.

    Args:
        path: File.

    Returns:
        ``PyTorch zip``, ``PyTorch legacy``, ``pickle`` or ``safetensors``.

    Raises:
        MissingError: There is no such file.
        CheckpointError: It is something else; the text says what, and what to do.
    """
    head, size = _head(path)
    if not size:
        raise _refusal(path, "is empty (0 bytes)", "copy or download it again")
    for offset, magic, what, advice in _SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            raise _refusal(path, f"is {what}, not a checkpoint", advice)
    if head[:2] == b"PK":
        return archive_format(path)
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return LEGACY if _LEGACY_MAGIC in head[:32] else PICKLE
    if head[8:9] == b"{":
        return _safetensors(path, head, size)
    if _is_old_pickle(path, head, size):
        return PICKLE
    text = _as_text(head)
    raise _unknown(path, head, size) if text is None else _text_refusal(path, text)


def _head(path: Path) -> tuple[bytes, int]:
    """Return the first bytes and the size of a regular file."""
    try:
        if path.is_dir():
            held = sorted(entry.name for entry in path.iterdir())[:6]
            inside = f"it holds {', '.join(held)}" if held else "it holds nothing"
            raise _refusal(path, f"is a folder, not a checkpoint ({inside})", "pass one file")
        if not path.exists():
            raise _missing(path)
        if not path.is_file():
            raise _refusal(path, "is not a regular file", "pass a file on disk")
        with path.open("rb") as file:
            return file.read(_HEAD), path.stat().st_size
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal(path, f"cannot be read ({reason})", "check its name and rights") from error


def _missing(path: Path) -> MissingError:
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3)
    if near:
        advice = f"nearest: {', '.join(near)}"
    elif folder.is_dir():
        advice = "check the name"
    else:
        advice = f"the folder {folder} does not exist either"
    return MissingError(f"There is no file {path}; {advice}.")


def _refusal(path: Path, what: str, advice: str) -> CheckpointError:
    return CheckpointError(f"{path} {what}; {advice}.")


def _unknown(path: Path, head: bytes, size: int) -> CheckpointError:
    names_maker = head[:1] == b"\x08" and (b"onnx" in head or b"pytorch" in head)
    if path.suffix == ".onnx" or names_maker:
        return _refusal(path, "is an ONNX model, not a checkpoint", _WEIGHTS)
    if path.suffix == ".safetensors":
        return _refusal(path, "is not a whole safetensors file", "copy or download it again")
    what = f"is no checkpoint that we know ({size} bytes, beginning with {head[:8].hex(' ')})"
    return _refusal(path, what, _WEIGHTS)


def _safetensors(path: Path, head: bytes, size: int) -> str:
    """Check that a safetensors file is as long as its first eight bytes promise."""
    length = int.from_bytes(head[:8], "little")
    if length + 8 > size:
        if path.suffix != ".safetensors" and length > 100_000_000:
            raise _unknown(path, head, size)
        what = f"is a truncated safetensors file ({size} bytes)"
        raise _refusal(path, what, "copy or download it again")
    return SAFETENSORS


def _as_text(head: bytes) -> str | None:
    """Return the beginning as text, or None where it is not text."""
    if head[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return head.decode("utf-16", errors="replace")
    text = head.decode("utf-8", errors="ignore")
    is_text = len(text.encode()) >= len(head) - 3 and all(
        character.isprintable() or character in "\t\n\r\f\ufeff" for character in text
    )
    return text if is_text else None


def _is_old_pickle(path: Path, head: bytes, size: int) -> bool:
    """Return whether a file is a pickle of protocol 0 or 1, found by disassembly alone."""
    if head[:1] not in b"(c]}dl" or size > _LONGEST_OLD_PICKLE:
        return False
    try:
        return sum(1 for _ in pickletools.genops(path.read_bytes())) >= 3
    except Exception:
        # Whatever the disassembler chokes on is no pickle.
        return False


def _text_refusal(path: Path, text: str) -> CheckpointError:
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("version https://git-lfs.github.com/spec/"):
        size = re.search(r"^size (\d+)", start, re.MULTILINE)
        real = f" for a file of {int(size[1]):,} bytes" if size else ""
        what = f"is a Git LFS pointer{real}, not the checkpoint itself"
        return _refusal(path, what, "fetch the file with `git lfs pull`")
    if re.match(r"<(!doctype|html|head|\?xml)", start, re.IGNORECASE):
        what = "is a web page (HTML), not a checkpoint"
        return _refusal(path, what, "download the file itself; the link may need a login")
    if start[:1] in {"{", "["}:
        what = "is a text file (JSON, by its first character), not a checkpoint"
        return _refusal(path, what, "pass the file with the weights")
    line = start.splitlines()[0][:40] if start else ""
    return _refusal(path, f"is a text file (it begins {line!r}), not a checkpoint", _WEIGHTS)
