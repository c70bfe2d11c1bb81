"""What a person reads is written in plain, modern English: a short list of archaic words stays out of it.

``python tests/test_words.py PATH...`` prints the words it finds in files or folders, each with a replacement.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AREAS = {
    "labkit": ["labkit"],
    "notebooks": ["notebooks"],
    "docs": ["docs", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"],
    "readme": ["README.md"],
    "tests": ["tests"],
    "tools": ["benchmarks", "tools"],
    "changelog": ["CHANGELOG.md"],
}
SUFFIXES = {".py", ".pyi", ".md", ".ipynb", ".js", ".css", ".html", ".txt", ".toml"}
# The list itself, and a text whose perplexity is measured: it has to read like many authors.
EXCEPT = {"test_words.py", "evaluation.txt"}
PER_1000_LINES = 1

BE = r"\b(?:is|are|was|were|be|been|being)"
AMOUNTS = (
    r"(?:bits|bytes|[KMGT]i?B|FLOPS?|tokens|operations|multiplications|values|numbers|weights|points|lines|rows|cells|heads|layers|"
    r"calls|steps|blocks|files|pages|processes|sequences|requests|streams|threads|megabytes|gigabytes|(?:milli|micro)?seconds|ms|"
    r"minutes|hours|one(?:[\s-](?!(?:of|to|in|on|for|from|with|by|behind|or|and|how|is|must|may|can|keeps|needs|reads)\b)[\w-]+){1,3})"
)
EACH = (
    r"(?:token|second|minute|hour|day|student|pupil|row|weight|layer|number|parameter|word|character|step|window|prompt|stream|sequence|"
    r"thread|core|file|folder|module|function|subcommand|command|task|exercise|notebook|chapter|cell|call|block|tensor|head|line|run|"
    r"repeat|process|model|machine|submission|assignment|engine)"
)
VERBS = (
    r"(?:is|are|was|has|have|had|can|could|may|might|must|will|would|needs?|holds?|takes?|gives?|reads?|makes?|gets?|keeps?|uses?|"
    r"knows?|sees?|does|wants?|ends?|begins?|starts?|writes?|sends?|costs?|that|which)"
)
THAN = (
    r"(?:longer|more|less|fewer|better|worse|larger|smaller|faster|slower|greater|higher|lower|different|bigger|"
    r"later|earlier|further)"
)
# What is not written -> what is written instead. A space matches any white space, and the start of a comment's next line.
WORDS = {
    r"(?<![a-z])(?:foretell(?:s|ing)?|foretold)(?![a-z])": "predict, predicted, prediction; estimate for sizes",
    r"(?<![a-z])mend(?:s|ed|ing)?(?![a-z])": "fix, fixed",
    BE + r"(?: (?:not|never|only|also|then|first))? told\b(?! apart\b)": "is reported, reports, says",
    r"\btell(?:s|ing)? of\b": "reports, says",
    r"\bst(?:ands?|anding|ood) (?:in|at|beside|here|there|on|under|above|below|between|still|where)\b(?! for\b)": "is in",
    r"\b(?:lies?|lying|lay) (?:in|at|as|beside|there|here|under|next)\b": "is in, are used directly",
    r"(?<![a-z])reckon(?:s|ed|ing)?(?![a-z])": "assume, budget for",
    r"\bso (?:many|much)\b(?! (?:" + THAN + r"|that|as)\b)(?! \w+ that\b)": "N X, that many X",
    r"(?<!\bthere\s)\b(?:is|are|was|were) no\b(?! (?:" + THAN + r"|doubt|need|problem|matter|one)\b)": "is not a, are not",
    r"\bof (?:its|their|one's) own\b(?! accord)": "its own, separate, dedicated",
    r"\bbeside\b": "next to, besides, and",
    r"\b(?:whoever|whomever|nobody|somebody)\b": "anyone who, no one, someone; the student, the caller",
    r"\b" + AMOUNTS + r" an? " + EACH + r"\b(?! " + VERBS + r"\b)(?!')": "per token, per second, per student",
    r"(?<![a-z])(?-i:Say) (?:whether|why|if)\b": "Return whether, Explain why",
    r"(?<![a-z])(?:heed(?:s|ed|ing)?|hence|lest|meanwhile)(?![a-z])": "respect, so, so that ... not, while",
    r"(?<!\bare\s)(?<!\bis\s)(?<!\bwere\s)\ball the same\b": "anyway",
    r"\bin (?:the|their|its) places? of\b": "instead of",
    r"(?<![a-z])strangers?(?![a-z])": "untrusted (text, code, server)",
    r"\bas asked\b": "as requested",
    r"\bas ever\b": "drop it",
    r"\bfor ever\b": "forever",
    r"\b(?:takes?|taking|took) (?:the |this |that |its |no |(?:\w+ )?(?:more|less|much) )?(?:memory|RAM)\b": "needs, uses",
    r"\b(?:resident memory|most RAM)\b": "peak RSS",
    r"\bcommonest\b": "most common",
    r"\bhow[- ]manieth\b": "which",
    r"\b(?:at|from|to) the begin\b": "at the start",
    r"(?<![a-z])walls(?![a-z])": "delimiters, control tokens; isolation",
    r"(?<![a-z])lots(?![a-z])(?! of\b)": "random draws",
    r"(?<![a-z])(?<!signal\s)traps?(?![a-z])": "pitfall, problem",
    r"\bhow far (?:\w+ ){1,6}(?:has|have) come\b": "progress",
}
PATTERNS = {re.compile(word.replace(" ", r"\s+(?:#:?\s+)?"), re.IGNORECASE): better for word, better in WORDS.items()}
QUOTED = re.compile(r"(`+)[^`\n]+\1")
IN_QUOTES = re.compile(r"\"[^\"\n]+\"|“[^”\n]+”")


def files_in(*paths: Path) -> list[Path]:
    """Return the files that a person reads, in folders and below."""
    found = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [
        file
        for file in found
        if file.suffix in SUFFIXES
        and file.name not in EXCEPT
        and not any(part.startswith(".") for part in file.parts[-3:-1])
    ]


def read_lines(path: Path) -> list[str]:
    """Return a file's lines; of a notebook those of its cells, with outputs and metadata left blank."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix != ".ipynb":
        return lines
    kept, inside = [], False
    for line in lines:  # the format puts each line of a cell on a line, so that line numbers stay true
        bare = line.strip()
        inside = inside and bare not in ("]", "],")
        kept.append(json.loads(bare.removesuffix(",")).removesuffix("\n") if inside else "")
        inside = inside or bare == '"source": ['
    return kept


def find(path: Path, lines: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the word and what to write instead for each archaic word that is not quoted."""
    text = QUOTED.sub(lambda match: "X" * len(match[0]), "\n".join(lines))
    if path.suffix in (".md", ".ipynb"):
        text = IN_QUOTES.sub(lambda match: "X" * len(match[0]), text)
    for pattern, better in PATTERNS.items():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), better


def count(*paths: Path) -> tuple[list[str], int]:
    """Return the hits, as a person wants to read them, and the number of lines that are not blank."""
    hits, n_lines = [], 0
    for path in files_in(*paths):
        lines = read_lines(path)
        n_lines += sum(bool(line.strip()) for line in lines)
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        hits += [f"{shown}:{line}: {word} -> {better}" for line, word, better in sorted(find(path, lines))]
    return hits, n_lines


@pytest.mark.parametrize("area", AREAS)
def test_archaic_words_stay_out(area: str) -> None:
    """At most one line in 1,000 has a word of the list."""
    hits, n_lines = count(*(ROOT / path for path in AREAS[area]))
    assert n_lines > 50
    assert 1000 * len(hits) <= PER_1000_LINES * n_lines, f"{len(hits)} in {n_lines} lines\n" + "\n".join(hits)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What is foretold is foretold_bytes.", ["foretold", "foretold"]),
        ("recommend, amend and mended", ["mended"]),
        ("the user is\n    # told; a story told well", ["is # told"]),
        ("5 tokens a second; the tokens a model reads; 4 bits a weight", ["bits a weight", "tokens a second"]),
        ("one way to load a model; one line of a file; one JSON line a student", ["one JSON line a student"]),
        ("there is no file; it is no longer a file; it is no file", ["is no"]),
        ("slots, a lot, lots of files, wall time, walls", ["walls"]),
        ("so many that it fails, so much faster, so many bytes", ["so many"]),
        ("it stands in for another; it stands in the file", ["stands in"]),
        ("they are all the same; it runs all the same", ["all the same"]),
        ("it takes an argument and 5 minutes", []),
        ("it takes memory", ["takes memory"]),
        ("labkit/course/strangers.py", ["strangers"]),
        ("`foretold` is a key of it", []),
    ],
)
def test_find_tells_archaic_words_from_plain_ones(text: str, words: list[str]) -> None:
    """Words of the list are found also over a line's end and in names; other uses of the same letters are not."""
    assert [word for _, word, _ in sorted(find(Path("text.py"), text.splitlines()))] == words


def test_lengths_are_written_in_singular_and_plural() -> None:
    """No message reads "1 files" or "file(s)": `counted` writes lengths before nouns, but not after "of" or in limits."""
    for path in sorted((ROOT / "labkit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                length = r"(?<! of )\{len\([^}A-Z]+\} (?!is|has)[a-z]+s\b(?!.*(?:at most|give 1 to))"
                wrong = re.search(length + r"|(?<!http)\(s\)", ast.unparse(node))
                assert wrong is None, f"{path.name}:{node.lineno}: {wrong and wrong[0]}"


def test_read_lines_keeps_line_numbers_of_notebooks(tmp_path: Path) -> None:
    """Of a notebook only the cells are read, each line where the file has it."""
    notebook = {"cells": [{"outputs": ["lest"], "source": ["# One\n", "hence two"]}]}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook, indent=1), encoding="utf-8")
    lines = path.read_text(encoding="utf-8").splitlines()
    [(line, word, _)] = find(path, read_lines(path))
    assert word == "hence"
    assert "hence two" in lines[line - 1]


def main(arguments: list[str]) -> int:
    """Print the words found in files and folders (all areas by default); return 1 where there are any."""
    total = 0
    for name, paths in ({"": arguments} if arguments else AREAS).items():
        hits, n_lines = count(*(Path(path).resolve() if arguments else ROOT / path for path in paths))
        print(
            *hits,
            f"{name or 'total'}: {len(hits)} in {n_lines} lines, {1000 * len(hits) / max(n_lines, 1):.1f} in 1,000",
            sep="\n",
        )
        total += len(hits)
    return bool(total)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
