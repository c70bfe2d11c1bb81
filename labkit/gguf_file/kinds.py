"""GGUF files that are not a language model: recognized by their keys and tensors, and named for what they are."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

_WHOLE = "give the model it belongs to"
_LORA = f"{_WHOLE}, and this file as lora_path"
_PICTURES = "use the program it was made for, such as stable-diffusion.cpp or ComfyUI"
_DRAFT = "a draft for speculative decoding ({}), which only proposes tokens for a model", _WHOLE
_BY_TYPE = {
    "adapter": ("an adapter (LoRA)", _LORA),
    "mmproj": ("a vision or audio projector (mmproj)", _WHOLE),
    "imatrix": ("an importance matrix, which a quantizer reads", _WHOLE),
}
_BY_ARCHITECTURE = {
    "clip": ("a vision or audio projector (mmproj)", _WHOLE),
    "wavtokenizer-dec": ("an audio decoder, which does not generate text", "give the language model itself"),
    "controlvector": ("a control vector", _WHOLE),
    "imatrix": _BY_TYPE["imatrix"],
    "adapter": _BY_TYPE["adapter"],
}
_DRAFT_WORDS = frozenset({"eagle", "dflash", "medusa", "assistant", "mtp", "nextn", "draft", "drafter"})
_PICTURE_WORDS = frozenset({
    "flux", "sd", "sdxl", "wan", "qwenimage", "hyvid", "hunyuanvideo", "ltxv", "ltx", "lumina", "zimage", "aura", "cosmos",
    "hidream", "chroma", "pixart", "kandinsky", "sana", "omnigen", "mochi", "svd", "unet", "vae",
})  # fmt: skip
_PICTURE_TENSORS = re.compile(
    r"(model\.diffusion_model|first_stage_model|double_blocks|single_blocks|joint_blocks|transformer_blocks"
    r"|(input|middle|output)_blocks|(down|up)_blocks|patch_embedding|img_in)\."
)
_ADAPTER_TENSOR = re.compile(r"\.lora_[ab]$|\.loraA$|\.loraB$")
_MATRIX_TENSOR = re.compile(r"\.in_sum2$")
_VECTOR_TENSOR = re.compile(r"direction\.\d+$")
_SENSES = re.compile(r"(v|a|mm|vision_tower|audio_tower|multi_modal_projector|vision_model)\.")
_OLLAMA = "fetch the model's GGUF and its mmproj from the hub: llama.cpp keeps the two in separate files"


def name_kind(architecture: str, metadata: Mapping[str, Any], names: Collection[str]) -> tuple[str, str] | None:
    """Return what a GGUF file is if it is not a language model, and what to do; None for all others.

    Parameters
    ----------
    architecture : str
        ``general.architecture``, or "".
    metadata : Mapping
        Its keys.
    names : collection of str
        Its tensors.
    """
    kind = metadata.get("general.type")
    known = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    known = known or _BY_ARCHITECTURE.get(architecture) or _by_name(architecture) or _by_tensors(names)
    return known or _by_layers(architecture, metadata, names)


def _by_name(architecture: str) -> tuple[str, str] | None:
    words = {word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", architecture.lower())}
    joined = re.sub(r"[^a-z]", "", architecture.lower())
    if words & _DRAFT_WORDS:
        return _DRAFT[0].format(architecture), _DRAFT[1]
    if {*words, joined} & _PICTURE_WORDS:
        return f"a model for pictures or video ('{architecture}'), not for text", _PICTURES
    return None


def _by_tensors(names: Collection[str]) -> tuple[str, str] | None:
    if not names:
        return None
    language = any(name.startswith(("token_embd.", "blk.")) for name in names)
    if all(_ADAPTER_TENSOR.search(name) for name in names):
        return _BY_TYPE["adapter"]
    if any(_MATRIX_TENSOR.search(name) for name in names):
        return _BY_TYPE["imatrix"]
    if all(_VECTOR_TENSOR.match(name) for name in names):
        return _BY_ARCHITECTURE["controlvector"]
    if not language and any(_PICTURE_TENSORS.match(name) for name in names):
        return "a model for pictures or video, not for text", _PICTURES
    senses = sum(bool(_SENSES.match(name)) for name in names)
    if senses and language:
        return (
            f"a language model with {senses:,} tensors of its vision or audio part in one file, as Ollama writes it",
            _OLLAMA,
        )
    if senses == len(names):
        return _BY_TYPE["mmproj"]
    return None


def _by_layers(architecture: str, metadata: Mapping[str, Any], names: Collection[str]) -> tuple[str, str] | None:
    """Name a vocabulary without weights, and prediction heads without the model's layers."""
    if not names and "tokenizer.ggml.tokens" in metadata:
        return "a vocabulary without weights", "give a file with the model's weights, or load it with vocab_only=True"
    n_layers, n_heads = (metadata.get(f"{architecture}.{key}") for key in ("block_count", "nextn_predict_layers"))
    if not isinstance(n_layers, int) or not isinstance(n_heads, int) or not 0 < n_heads <= n_layers:
        return None
    found = {int(match[1]) for name in names if (match := re.match(r"blk\.(\d{1,9})\.", name))}
    if found and min(found) >= n_layers - n_heads:
        return _DRAFT[0].format("only the prediction head, MTP or NextN, of a model"), _WHOLE
    return None
