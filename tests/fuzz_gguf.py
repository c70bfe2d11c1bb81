"""Long versions of two tests, run by hand.

``python -m tests.fuzz_gguf reader --seconds 3600`` and ``python -m tests.fuzz_gguf engine --count 20000``.

``reader`` damages small files at random: each must be read, or refused with a one-line GGUFError, quickly.
``engine`` mutates small models of over ten architectures: each that `load_model` would load, after its checks and the trial
of what is not known to be sound, is loaded and used in a child process, which must not crash.
Exits with 1 after a failure; it keeps the file and prints what is wrong with it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from labkit.errors import GGUFError, ModelLoadError
from labkit.gguf_file import read_header
from labkit.gguf_file.preflight import preflight
from labkit.ghost import build_ghost_model
from labkit.load_check.dry_run import check_by_trial
from labkit.load_check.known_layout import has_known_layout
from tests import (
    gguf_models as models,
)
from tests import (
    more_ghosts,  # noqa: F401  # adds its architectures
)
from tests.gguf_engine import EngineChild
from tests.gguf_kinds import KINDS
from tests.gguf_mutants import damage, mutate
from tests.gguf_zoo import small

SLOW_S = 1.0
GHOSTS = ("jamba", "qwen2moe", "mamba2", "falcon-h1", "granitehybrid", "lfm2")


def fuzz_reader(folder: Path, rng: random.Random, seconds: float) -> Counter[str]:
    """Damage files until the time is up."""
    bases = [small().bytes(), models.llama(n_vocab=300).bytes(), models.llama(tokenizer="gpt2").bytes()]
    path, results, end = folder / "damaged.gguf", Counter[str](), time.monotonic() + seconds
    while time.monotonic() < end:
        path.write_bytes(damage(rng.choice(bases), rng))
        started = time.perf_counter()
        try:
            header = read_header(path)
            preflight(header)
            results["read"] += 1
        except GGUFError as error:
            results["refused"] += 1
            if len(str(error).splitlines()) != 1:
                report(path, f"several lines: {error}", results)
        except Exception as error:  # any other exception is a failure
            report(path, f"{type(error).__name__}: {error}", results)
        if time.perf_counter() - started > SLOW_S:
            report(path, "slow", results)
    return results


def fuzz_engine(folder: Path, rng: random.Random, count: int, more: Path | None = None, *, flash: bool) -> Counter[str]:
    """Make ``count`` mutants and load those that `load_model` would load."""
    bases = [models.llama(tokenizer=kind, matrix=matrix) for kind in ("llama", "gpt2") for matrix in (0, 1, 8)]
    bases += [build() for build in KINDS.values()]
    bases += [_ghost(folder / f"{name}.gguf", name) for name in GHOSTS]
    bases += [models.read_parts(file) for file in sorted(more.glob("*.gguf"))] if more else []
    path, results = folder / "mutant.gguf", Counter[str]()
    results["architectures"] = len({parts.keys["general.architecture"][1] for parts in bases})
    with EngineChild(flash=flash) as engine:
        for _ in range(count):
            what, data = mutate(rng.choice(bases), rng)
            path.write_bytes(data)
            try:
                header = read_header(path)
                preflight(header)
                if not has_known_layout(header):
                    results["tried first"] += 1
                    check_by_trial(path)
            except ModelLoadError as error:  # no answer in time
                report(path, f"{error}: {what}", results)
                continue
            except GGUFError as error:
                results["refused"] += 1
                results["refused after a trial"] += "in a trial" in str(error)
                continue
            answer = engine.load(path)
            results["ok" if answer == "ok" else "refused by the engine"] += 1
            if answer.startswith("DIED"):
                report(path, f"{answer}: {what}", results)
    return results


def _ghost(path: Path, architecture: str) -> models.Parts:
    """Return a small model of an architecture that only ghosts have."""
    build_ghost_model(path, architecture=architecture, shape={"n_vocab": 320}, quantization="F32")
    return models.read_parts(path)


def report(path: Path, what: str, results: Counter[str]) -> None:
    """Keep the file and print what is wrong with it."""
    results["FOUND"] += 1
    kept = path.with_name(f"found-{results['FOUND']}.gguf")
    kept.write_bytes(path.read_bytes())
    print(f"{kept}: {what}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("reader", "engine"))
    parser.add_argument("--seconds", type=float, default=60, help="how long to damage files (default 60)")
    parser.add_argument("--count", type=int, default=20_000, help="how many mutants to make (default 20,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flash", action="store_true", help="compute with flash attention")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="mutate also the (small) models in this folder")
    arguments = parser.parse_args()
    folder, rng, started = Path(tempfile.mkdtemp(prefix="fuzz-")), random.Random(arguments.seed), time.monotonic()
    if arguments.what == "reader":
        results = fuzz_reader(folder, rng, arguments.seconds)
    else:
        results = fuzz_engine(folder, rng, arguments.count, arguments.models, flash=arguments.flash)
    print(f"{dict(results)} in {time.monotonic() - started:.0f} s, seed {arguments.seed}")
    return 1 if results["FOUND"] else 0


if __name__ == "__main__":
    sys.exit(main())
