"""Recognize files in other formats from their first bytes."""

from __future__ import annotations

_CONVERT = "convert it with llama.cpp's convert_hf_to_gguf.py"
_UNPACK = "unpack it first"
_OTHER = "fetch the model file itself"
_OLD = "a model file from 2023, older than GGUF; llama.cpp now reads GGUF only"
_FETCH = "use the model's download link"

# first bytes -> (what it is, what to do); old llama.cpp magics are reversed, as little-endian numbers
_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"FUGG", "a GGUF with reversed bytes (big-endian?)", "convert the model again on this machine"),
    (b"lmgg", f"{_OLD} (ggml)", "fetch a GGUF of the model"),
    (b"fmgg", f"{_OLD} (ggmf)", "fetch a GGUF of the model"),
    (b"tjgg", f"{_OLD} (ggjt)", "fetch a GGUF of the model"),
    (b"algg", "an old LoRA adapter (ggla)", "fetch a GGUF of the adapter"),
    (b"version https://git-lfs", "a git-LFS pointer, not the file itself", "run 'git lfs pull', or download the file"),
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint?)", _CONVERT),
    (b"\x80\x02", "a Python pickle (a PyTorch checkpoint?)", _CONVERT),
    (b"\x80\x04", "a Python pickle", _CONVERT),
    (b"\x89HDF", "an HDF5 file", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"%PDF", "a PDF document", _OTHER),
    (b"\x7fELF", "a program (ELF)", _OTHER),
    (b"MZ", "a Windows program", _OTHER),
    (b"\x89PNG", "a picture (PNG)", _OTHER),
    (b"SQLite format 3", "an SQLite database", _OTHER),
)

# beginnings of text, in lower case and without leading space
_TEXTS: tuple[tuple[bytes, str, str], ...] = (
    (b"<!doctype html", "a web page (HTML), not a model", _FETCH),
    (b"<html", "a web page (HTML), not a model", _FETCH),
    (b"<?xml", "an XML document, perhaps a server's error message", _FETCH),
    (b'{"schemaversion"', "a manifest of Ollama's store, not the model", "give the blob that it names, blobs/sha256-…"),
    (b"{{", "a template, not the model", _OTHER),
    (b"{", "a JSON document, perhaps a server's error message", _FETCH),
    (b"entry not found", "a server's message 'Entry not found'", "check the address"),
    (b"invalid username or password", "a server's message about a missing login", "log in, then fetch it again"),
    (b"access to model", "a server's message that the model needs a login", "log in, then fetch it again"),
    (b"#!", "a script", _OTHER),
)


def describe_foreign(first: bytes) -> tuple[str, str]:
    r"""Return the format of a file that does not begin with ``GGUF``, and what to do about it."""
    for magic, what, advice in _MAGICS:
        if first.startswith(magic):
            return what, advice
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, what, advice in _TEXTS:
        if text.startswith(beginning):
            return what, advice
    if first[8:9] == b"{" and first[6:8] == b"\0\0":  # an 8-byte length, then JSON
        return "a safetensors file", _CONVERT
    if not first.strip(b"\0"):
        return "all zero bytes, an incomplete download", "fetch the file again"
    if b"GGUF".startswith(first[:4]):
        return "only the first bytes of a GGUF", "download incomplete? fetch it again"
    return f"not a GGUF: it begins with {first[:4]!r}, not with b'GGUF'", _OTHER
