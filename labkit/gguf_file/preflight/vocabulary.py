"""Preflight of the vocabulary: what makes llama.cpp's tokenizers assert, throw an uncaught exception, or loop forever."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from labkit.checks import visible
from labkit.gguf_file.header import Header
from labkit.gguf_file.preflight.hparams import refuse
from labkit.gguf_file.values import LazyArray

_TOKENS, _KINDS = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_MAX_TOKEN_BYTES = 1 << 13  # two tokenizers build their trie by recursion, one call per byte
_BYTE = 6  # LLAMA_TOKEN_TYPE_BYTE
_BUCKET = 1 << 17  # hashes compared at a time: a set needs at most about 8 MB
# bytes that occur in UTF-8 text; a byte-fallback tokenizer needs a token for each of them
_TEXT_BYTES = [byte for byte in range(256) if byte not in (0xC0, 0xC1) and byte < 0xF5]

# tokenizer -> (special token, its default id, whether it is added to every text by default)
_SPECIAL: dict[str, tuple[tuple[str, int | None, bool], ...]] = {
    "llama": (("bos", 1, True), ("eos", 2, False)),
    "bert": (("bos", 101, True), ("seperator", 102, True)),  # llama.cpp's own spelling
    "gpt2": (("bos", 11, True), ("eos", 11, False)),
    "gemma4": (("bos", None, True), ("eos", None, False)),
    "t5": (("bos", None, False), ("eos", 1, True)),
}


def check_vocabulary(header: Header) -> tuple[str, ...]:
    """Refuse a vocabulary that would abort or hang llama.cpp's tokenizer."""
    model = header.metadata.get("tokenizer.ggml.model")
    if model in ("none", "no_vocab"):
        refuse(header, f"key 'tokenizer.ggml.model' is '{model}': without a vocabulary there is no text")
    if not isinstance(model, str) or header.types.get(_TOKENS) != "array of string":
        return ()  # llama.cpp itself reports what is missing
    tokens = header.metadata[_TOKENS]
    hashes = _hashes(tokens)
    _check_duplicates(header, tokens, hashes)
    if model == "llama":
        _check_bytes(header, hashes)
    elif model == "rwkv":
        _check_rwkv(header, tokens)
    elif model == "bert" and header.types.get(_KINDS) == "array of int32" and _BYTE in header.metadata[_KINDS]:
        refuse(header, f"key '{_KINDS}' marks byte tokens, which a 'bert' tokenizer does not have")
    if model in ("rwkv", "t5") and (longest := max(map(len, _strings(tokens)), default=0)) > _MAX_TOKEN_BYTES:
        refuse(header, f"key '{_TOKENS}' holds a token of {longest:,} bytes, {_MAX_TOKEN_BYTES:,} at most are possible")
    _check_special(header, model, len(tokens))
    return ()


def _batches(tokens: LazyArray | tuple[str, ...]) -> Iterable[list[bytes]]:
    return tokens.raw_batches() if isinstance(tokens, LazyArray) else [[token.encode() for token in tokens]]


def _strings(tokens: LazyArray | tuple[str, ...]) -> Iterator[bytes]:
    """Yield each token as llama.cpp sees it."""
    raw = (token for batch in _batches(tokens) for token in batch)
    return (token if token and 0 not in token else _as_seen(token, index) for index, token in enumerate(raw))


def _as_seen(token: bytes, index: int) -> bytes:
    """Cut a token at its first zero byte, as llama.cpp does, and replace an empty one by a name."""
    return token.split(b"\0", 1)[0] or b"[EMPTY_%d]" % index


def _hashes(tokens: LazyArray | tuple[str, ...]) -> array[int]:
    """Return a 64-bit hash of each token, 8 bytes each: 2 MB for a vocabulary of 262,144."""
    hashes = array("q")
    for batch in _batches(tokens):
        if all(batch) and b"\0" not in b"".join(batch):  # nearly always; one test for the whole batch, for speed
            hashes.extend(map(hash, batch))
        else:
            first = len(hashes)
            hashes.extend(hash(t if t and 0 not in t else _as_seen(t, first + i)) for i, t in enumerate(batch))
    return hashes


def _check_duplicates(header: Header, tokens: LazyArray | tuple[str, ...], hashes: array[int]) -> None:
    mask = (1 << (max(len(hashes) - 1, 0) // _BUCKET).bit_length()) - 1
    if mask == 0:
        distinct = len(set(hashes))
    else:
        distinct = sum(len({h for h in hashes if h & mask == bucket}) for bucket in range(mask + 1))
    if distinct == len(hashes):
        return
    seen: dict[bytes, int] = {}
    for index, token in enumerate(_strings(tokens)):
        first = seen.setdefault(token, index)
        if first != index:
            shown = visible(token.decode("utf-8", "replace"))
            refuse(header, f"key '{_TOKENS}' holds the same token '{shown}' twice, at {first:,} and {index:,}")


def _check_bytes(header: Header, hashes: array[int]) -> None:
    """Refuse a SentencePiece vocabulary without a token for each byte, the fallback for unknown characters."""
    known = {hash(spelling): byte for byte in _TEXT_BYTES for spelling in (b"<0x%02X>" % byte, bytes([byte]))}
    missing = set(_TEXT_BYTES) - {known[h] for h in hashes if h in known}
    if missing:
        refuse(header, f"key '{_TOKENS}' has no token <0x{min(missing):02X}> for the byte {min(missing)} of a text")


def _check_rwkv(header: Header, tokens: LazyArray | tuple[str, ...]) -> None:
    """Refuse an RWKV vocabulary without a token for each byte: its longest-match search would not advance."""
    known = {_unescape(token) for token in _strings(tokens) if len(token) <= 4}
    missing = [byte for byte in _TEXT_BYTES if bytes([byte]) not in known]
    if missing:
        refuse(header, f"key '{_TOKENS}' has no token for the byte {missing[0]} of a text")


def _unescape(token: bytes) -> bytes:
    r"""Read the escapes of one short RWKV token: ``\n``, ``\x0a``, ``\\``."""
    if not token.startswith(b"\\") or len(token) < 2:
        return token
    if token[1:2] == b"x":
        digits = token[2:4].decode("latin-1")
        return bytes([int(digits, 16)]) if len(digits) == 2 and all(c in "0123456789abcdef" for c in digits) else token
    return {b"t": b"\t", b"n": b"\n", b"r": b"\r"}.get(token[1:2], token[1:2]) + token[2:]


def _check_special(header: Header, model: str, n_tokens: int) -> None:
    """Refuse a special token that is added to every text but is not in the vocabulary."""
    for name, default, usual in _SPECIAL.get(model, ()):
        key, switch = f"tokenizer.ggml.{name}_token_id", f"tokenizer.ggml.add_{name}_token"
        added = header.metadata[switch] if header.types.get(switch) == "bool" and model != "bert" else usual
        given = header.metadata.get(key) if header.types.get(key) == "uint32" else None
        known = [token for token in (given, default) if token is not None and token < n_tokens]
        if added and not known:
            refuse(header, f"key '{key}' is {given}, the vocabulary has {n_tokens:,} tokens")
