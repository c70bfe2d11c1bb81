"""Traps of memory: what is held twice or for nothing, what the engine refuses, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labkit.engine import ModelSettings
from labkit.gguf_file.formats import TENSOR_TYPES
from labkit.kv_cache.layers import model_layers, number
from labkit.kv_cache.size import CELLS
from labkit.lint.case import Case
from labkit.lint.records import LintFinding
from labkit.memory import recommend_settings
from labkit.units import format_bytes

__all__ = [
    "find_beyond_training",
    "find_doubled_weights",
    "find_flash_attention",
    "find_full_window",
    "find_logits",
    "find_misfit",
    "find_unfit_cache",
    "find_wide_cache",
]

_WORTH_TELLING = 1024**2  # bytes that are reserved and hardly touched
_STRETCHED = ("rope_scaling_type", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_orig_ctx")


def _kinds(settings: ModelSettings) -> dict[str, Any]:
    return {"type_k": TENSOR_TYPES[settings.type_k], "type_v": TENSOR_TYPES[settings.type_v]}


def find_unfit_cache(case: Case) -> Iterator[LintFinding]:
    """Find a cache that the engine refuses: quantized values without flash attention, heads that are no whole blocks."""
    settings, kinds = case.settings, _kinds(case.settings)
    if kinds["type_v"].is_quantized and not settings.flash_attn:
        yield LintFinding(
            "v-cache-without-flash",
            "error",
            f"type_v={kinds['type_v'].name.lower()!r} is quantized and flash attention is off",
            "it does not load: llama.cpp keeps values in blocks only with flash attention",
            "flash_attn=True",
            change={"flash_attn": True},
        )
    caching = [layer for layer in model_layers(case.header).layers if layer.key_width]
    flash = settings.flash_attn or kinds["type_v"].is_quantized
    for name, kind in kinds.items():
        lengths = {layer.key_length if name == "type_k" else layer.value_length for layer in caching}
        odd = sorted(length for length in lengths if length % kind.block_size)
        if odd and flash and kind.is_quantized:
            yield LintFinding(
                "cache-blocks",
                "error",
                f"{name}={kind.name.lower()!r} has blocks of {kind.block_size}, and this model's heads are {odd[0]:,} long",
                "it does not load: a head must be whole blocks",
                f"{name}='f16'",
                change={name: "f16"},
            )


def find_doubled_weights(case: Case) -> Iterator[LintFinding]:
    """Find a mapped file of weights that this CPU wants in another order: both copies stay in memory."""
    if not case.settings.use_mmap or case.preferred.use_mmap:
        return
    saved = case.saves(use_mmap=False)
    if saved > 0:
        yield LintFinding(
            "doubled-weights",
            case.weigh(saved),
            "use_mmap=True, and llama.cpp rearranges weights for this CPU: the mapped file stays in memory beside that copy",
            f"{format_bytes(saved)} more; the system can take mapped pages back, but has to read them to find out",
            "use_mmap=False",
            saved,
            {"use_mmap": False},
        )


def find_logits(case: Case) -> Iterator[LintFinding]:
    """Find rows of logits that nobody reads."""
    settings, rows = case.settings, min(case.settings.n_ubatch, case.settings.n_ctx)
    if settings.n_outputs_max == 1 or rows == 1:
        return
    reserved = case.saves(n_outputs_max=1)
    if case.options.get("logits_all"):
        total = reserved + case.kept_logits_bytes
        yield LintFinding(
            "logits-all",
            case.weigh(total),
            f"logits_all=True keeps a row of {case.n_vocab:,} logits for every token, not for the last one alone",
            f"{format_bytes(total)}: {format_bytes(reserved)} of compute buffer, {format_bytes(case.kept_logits_bytes)} for "
            "the rows of a batch and of the whole context; prompts are slower too, not measured here",
            "leave logits_all out unless you read those rows (labkit.measure_perplexity needs none)",
            total,
            {"logits_all": False},
        )
    elif reserved >= _WORTH_TELLING and case.as_llama and not {"embedding", "draft_model"} & set(case.options):
        yield LintFinding(
            "logits-reserved",
            case.weigh(reserved) if settings.n_gpu_layers else "note",
            f"Llama leaves n_outputs_max at n_batch: {rows:,} rows of {case.n_vocab:,} logits, and the next token needs one",
            f"{format_bytes(reserved)} reserved; on a CPU most of it is never touched, on a GPU it is taken",
            "labkit.load_model keeps one row; with Llama a smaller n_ubatch is all there is",
            reserved,
        )


def find_full_window(case: Case) -> Iterator[LintFinding]:
    """Find layers that look back over a window with a cache for the whole context."""
    layers = model_layers(case.header)
    if not case.settings.swa_full or not layers.window:
        return
    saved = case.saves(swa_full=False)
    if saved > 0:
        n_windowed, n_layers = sum(layer.is_windowed for layer in layers.layers), len(layers.layers)
        default = ", which is Llama's default" if case.as_llama and case.options.get("swa_full") is None else ""
        yield LintFinding(
            "full-window-cache",
            case.weigh(saved),
            f"swa_full=True{default}: {n_windowed} of {n_layers} layers look back {layers.window:,} tokens and get a cache "
            f"for {case.settings.n_ctx:,}",
            f"{format_bytes(saved)} more",
            "swa_full=False, unless you go back to an earlier place in the text without computing it again",
            saved,
            {"swa_full": False},
        )


def find_wide_cache(case: Case) -> Iterator[LintFinding]:
    """Find a cache in F32: twice the memory for digits that F16 keeps well enough."""
    wide = {name: "f16" for name, kind in _kinds(case.settings).items() if kind.name == "F32"}
    saved = case.saves(**wide) if wide else 0
    if saved > 0:
        yield LintFinding(
            "f32-cache",
            case.weigh(saved),
            f"{' and '.join(wide)} in F32: 4 bytes a number where llama.cpp's default takes 2",
            f"{format_bytes(saved)} more, read again at every token",
            ", ".join(f"{name}={kind!r}" for name, kind in wide.items()),
            saved,
            dict(wide),
        )


def find_flash_attention(case: Case) -> Iterator[LintFinding]:
    """Find flash attention where it is not what load_model would take."""
    settings = case.settings
    if settings.flash_attn == case.preferred.flash_attn or _kinds(settings)["type_v"].is_quantized:
        return
    saved = case.saves(flash_attn=case.preferred.flash_attn)
    bytes_said = f"{format_bytes(abs(saved))} {'more' if saved > 0 else 'less'} memory; " if saved else ""
    if settings.flash_attn:
        cost = f"{bytes_said}on some CPUs tokens deep in a long context take twice as long, on others less (README)"
    else:
        cost = f"{bytes_said}a little slower on such a model or device; not measured here"
    yield LintFinding(
        "flash-attention",
        "note",
        f"flash_attn={settings.flash_attn}, and load_model would take {case.preferred.flash_attn} "
        f"({case.preferred.reasons.get('flash_attn', 'by its own rule')})",
        cost,
        f"flash_attn={case.preferred.flash_attn}, or measure both: labkit bench",
        max(saved, 0) or None,
        {"flash_attn": case.preferred.flash_attn},
    )


def find_beyond_training(case: Case) -> Iterator[LintFinding]:
    """Find a context beyond what the model was trained on."""
    trained = number(case.header, "context_length")
    cells = -(-trained // CELLS) * CELLS
    if not trained or case.settings.n_ctx <= cells:
        return
    stretched = any(case.options.get(name) for name in _STRETCHED) or "kv_overrides" in case.options
    saved = case.saves(n_ctx=cells)
    yield LintFinding(
        "beyond-training",
        "note" if stretched else "warning",
        f"n_ctx={case.settings.n_ctx:,}, and this model was trained on {trained:,} tokens",
        f"poor text beyond {trained:,}{' unless the scaling that you gave suits it' if stretched else ''}; "
        f"{format_bytes(saved)} of cache and buffers for it",
        f"n_ctx={cells}",
        max(saved, 0),
        {"n_ctx": cells},
    )


def find_misfit(case: Case) -> Iterator[LintFinding]:
    """Find what is more than this process may use."""
    estimate = case.estimate
    needed = estimate.ram_bytes + case.kept_logits_bytes
    if needed <= estimate.available_bytes:
        return
    missing = needed - estimate.available_bytes
    hardly = needed - estimate.file_backed_bytes <= estimate.available_bytes
    advice = recommend_settings(case.header.source, ram=estimate.available_bytes)
    change = advice.as_arguments() if advice.fits else {}
    if change.get("type_v", "f16") != "f16" and not case.settings.flash_attn:
        change["flash_attn"] = True  # a quantized V cache needs it
    mend = ", ".join(f"{name}={value!r}" for name, value in change.items()) or advice.reasons[-1]
    yield LintFinding(
        "does-not-fit",
        "warning" if hardly else "error",
        f"{'it hardly fits' if hardly else 'it does not fit'}: {format_bytes(needed)} with a full context, "
        f"{format_bytes(estimate.available_bytes)} may be used",
        f"{format_bytes(missing)} too much: "
        + ("the file is read again and again" if hardly else "the system swaps, or ends the process"),
        mend,
        missing,
        change,
    )
