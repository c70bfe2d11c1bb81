"""The memory and GGUF explorers without widgets: values in, HTML out. Runs in Pyodide, without NumPy."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.gguf_file import Header, read_header
from labkit.gguf_file.fields import fields
from labkit.gguf_file.source import LocalSource
from labkit.kv_cache import CACHE_TYPES, CELLS
from labkit.memory import MemoryEstimate
from labkit.model_info import describe_model
from labkit.system.build import EngineBuild, repacked_types
from labkit.tables import Table
from labkit.units import format_bytes
from labkit.widgets.parts import header_tables as contents
from labkit.widgets.parts.fields_html import fields_table, hex_html
from labkit.widgets.parts.what_fits import estimate_from_header, longest_context, trained_context

FOLDER = Path("/model")  # as in worker.js
GIB = 2**30
PROCESSORS = {
    "x86-64 with AVX2": ("AVX2", "REPACK"),
    "x86-64 with AVX-512": ("AVX2", "AVX512", "REPACK"),
    "ARM64": ("NEON", "DOTPROD", "MATMUL_INT8", "REPACK"),
    "another (no weights are rearranged)": (),
}
SWITCH = {"auto": None, "on": True, "off": False}
N_FIRST = 256
KEYS, TENSORS, FIRST = VIEWS = ("keys", "tensors", "first bytes")


class _Opened:
    """The model that was opened last."""

    path: Path
    header: Header


def answer(name: str, values: str) -> str:
    """Call one of `ANSWERS` with values from JSON; an error of labkit's is the answer's ``error``."""
    try:
        found = ANSWERS[name](json.loads(values))
    except LabkitError as error:
        found = {"error": str(error).replace(f"{FOLDER}/", "")}
    return json.dumps(found)


def choices(_values: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of the page's menus, by the control's id: (text, value)."""
    names = sorted(CACHE_TYPES, key=lambda name: name != "f16")  # the default first
    types = [(name.upper(), name) for name in names]
    same = {"processor": PROCESSORS, "show": VIEWS}
    return {"type_k": types, "type_v": types, **{name: [(one, one) for one in texts] for name, texts in same.items()}}


def open_model(values: dict[str, Any]) -> dict[str, Any]:
    """Read the header of the files that were mounted; of a split model, any part names the others."""
    _Opened.path = FOLDER / sorted(values["names"])[0]
    _Opened.header = None  # type: ignore[assignment]  # until it is known to be valid
    _Opened.header = header = read_header(_Opened.path)
    info = describe_model(header)
    trained = -(-trained_context(header) // CELLS) * CELLS
    sentence = f"{info.name}: {info.architecture}, {info.quantization}, {info.parameter_count / 1e6:,.0f} million weights"
    sentence += f" of {info.bits_per_weight:.2f} bits, {format_bytes(info.file_size_bytes)}."
    sentence += "".join(f" Note: {warning}." for warning in info.warnings)
    return {"sentence": sentence, "context": trained, "step": CELLS * max(1, trained // (512 * CELLS))}


def memory(values: dict[str, Any]) -> dict[str, Any]:
    """Estimate the memory by formula; if it does not fit, find the longest context that does."""
    features = PROCESSORS[values["processor"]]
    build = EngineBuild("assumed", features, ("CPU",), False, False, repacked_types(features), ())
    settings = {name: values[name] for name in ("type_k", "type_v")}
    settings |= {name: int(values[name]) for name in ("n_ubatch", "n_seq")}
    settings |= {"use_mmap": SWITCH[values["use_mmap"]], "build": build, "n_batch": max(512, settings["n_ubatch"])}
    settings["flash_attn"] = "auto" if values["flash_attn"] == "auto" else SWITCH[values["flash_attn"]]
    ram = int(float(values["ram_gib"]) * GIB)
    estimate = estimate_from_header(_Opened.header, int(values["n_ctx"]), ram_bytes=ram, **settings)
    verdict = (estimate.verdict[:1].upper() + estimate.verdict[1:]).replace("this process", "the model")
    if not estimate.fits:
        longest = longest_context(_Opened.header, ram, **settings)
        verdict += f"; the longest context that fits is {longest:,} tokens" if longest else "; no context fits"
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in estimate.assumptions)
    bar = _bar(estimate, ram)
    return {"html": f"<p><strong>{html.escape(verdict)}.</strong></p>{bar}{_parts(estimate).to_html()}<ul>{notes}</ul>"}


def show_contents(values: dict[str, Any]) -> dict[str, Any]:
    """Return one of `VIEWS`; the first bytes can be shown of an invalid file, too."""
    if values["show"] == FIRST or _Opened.header is None:
        source = LocalSource(_Opened.path)
        data = source.read(0, min(N_FIRST, source.size))
        found = fields(data)
        return {"html": hex_html(data, found) + contents.scrolled(fields_table(found))}
    if values["show"] == KEYS:
        return {"html": contents.scrolled(contents.keys_table(_Opened.header, values["search"]))}
    table, tensors = contents.tensors_table(_Opened.header, values["search"])
    groups = "".join(contents.groups_table(tensors, grouping).to_html() for grouping in contents.GROUPINGS)
    return {"html": groups + contents.scrolled(table)}


ANSWERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "choices": choices, "open": open_model, "memory": memory, "contents": show_contents,
}  # fmt: skip


def _bar(estimate: MemoryEstimate, ram: int) -> str:
    """Return a bar of the parts next to the RAM; the table has the same figures, so a screen reader skips the bar."""
    whole = max(estimate.total_bytes, min(ram, 2 * estimate.total_bytes))  # a small part of the RAM would not be visible
    pieces = "".join(
        f'<span class="labkit-{part.name.replace(" ", "-")}" style="width:{100 * part.resident_bytes / whole:.3f}%" '
        f'title="{html.escape(part.name)}: {format_bytes(part.resident_bytes)}"></span>'
        for part in estimate.parts
    )
    names = dict.fromkeys(part.name for part in estimate.parts)
    legend = "".join(f'<span><i class="labkit-{name.replace(" ", "-")}"></i> {html.escape(name)}</span>' for name in names)
    limit = f'<b style="left:{100 * ram / whole:.3f}%"></b>' if ram <= whole else ""
    bar = f'<div class="labkit-bar">{pieces}{limit}</div>'
    return f'<div aria-hidden="true">{bar}<p class="labkit-legend">{legend}</p></div>'


def _parts(estimate: MemoryEstimate) -> Table:
    rows = [(part.name, f"{part.resident_bytes / 2**20:,.1f}", part.formula) for part in estimate.parts]
    rows.append(("total", f"{estimate.total_bytes / 2**20:,.1f}", f"with a full context of {estimate.n_ctx:,} tokens"))
    return Table("Memory by part", ("part", "size (MiB)", "formula"), rows)
