"""Measure how fast a model answers: llama-bench's tests (pp, tg), and the speed that a user of the same model sees.

The first table is llama.cpp only, by llama-bench's protocol: random tokens, no sampling. The last one is labkit's
generate_text on a prompt of the same length, with tokenizing, sampling and detokenizing. In between: the speed predicted
from the file's header, this machine's memory bandwidth and llama.cpp's kernels, next to the measurement.
"""

from __future__ import annotations

import argparse

import labkit
from labkit.cli.arguments import add_model
from labkit.cli.output import Output

HELP = "measure how fast a model answers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("-p", "--n-prompt", type=int, default=512, metavar="N", help="prompt tokens (512)")
    parser.add_argument("-n", "--n-gen", type=int, default=128, metavar="N", help="tokens to generate (128)")
    parser.add_argument("-r", "--repetitions", type=int, default=5, metavar="N", help="measured rounds (5)")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="number of threads; default: all physical cores")
    parser.add_argument("--n-parallel", type=int, default=1, metavar="N", help="prompts decoded together (1)")
    parser.add_argument("--no-predict", action="store_true", help="skip the prediction (it needs two seconds)")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print all results as JSON")
    shape.add_argument("--csv", action="store_true", help="print one CSV row per test, with llama-bench's column names")
    shape.add_argument("--markdown", action="store_true", help="print the tables as Markdown")


def run(args: argparse.Namespace, out: Output) -> int:
    _check(args)
    prediction = None
    if not (args.no_predict or args.csv or args.markdown):
        depth = args.n_gen // 2  # llama-bench generates one sequence, starting with an empty context
        prediction = labkit.predict_speed(args.model, depth=depth, n_threads=args.threads, n_prompt=args.n_prompt)
    with labkit.load_model(args.model, n_ctx=args.n_prompt + args.n_gen, n_threads=args.threads) as model:
        result = labkit.benchmark_inference(
            model,
            [_prompt(model, args.n_prompt, 7 * index) for index in range(args.n_parallel)],
            max_tokens=args.n_gen,
            repeats=args.repetitions,
            n_parallel=args.n_parallel,
            progress=not (args.json or args.csv or args.markdown),
        )
    if args.csv or args.markdown:
        from labkit.benchmark.result import bench_csv

        print(bench_csv(result) if args.csv else result.to_markdown(), end="")
        return 0
    from labkit.benchmark.result import HEADINGS, USER, bench_records, bench_rows, summary_rows

    rows = bench_rows(result)  # the last two cells are the test and its speed
    engine = [row[1:] for row in rows if not row[-2].endswith(USER)]  # with the model's name a line would be too long
    user = [("prompt" if row[-2].startswith("pp") else "generation", row) for row in rows if row[-2].endswith(USER)]
    out.table(HEADINGS[1:], engine, title=f"{result.settings.model} ({rows[0][0]}): llama.cpp only")
    if prediction is not None:
        compared = _compare(prediction, result)
        out.table(("", "tokens/s", "measured / predicted"), compared, title="predicted, llama.cpp only")
        out.say(f"Generation is limited by {prediction.limit}.")
    speeds = [(name, f"{row[-1]} tokens/s ({row[-2].removesuffix(USER)})") for name, row in user]
    out.table(("", ""), [*speeds, *summary_rows(result)], title="what a user sees")
    for note in result.notes:
        out.say(note)
    out.result({"tests": bench_records(result), "predicted": prediction, **result})
    return 0


def _check(args: argparse.Namespace) -> None:
    from labkit.batch.parallel import MAX_PARALLEL
    from labkit.benchmark.run import MAX_REPEATS
    from labkit.checks import check_int

    limits = {"n_prompt": 2**31 - 1, "n_gen": 2**31 - 1, "repetitions": MAX_REPEATS, "n_parallel": MAX_PARALLEL}
    for option, high in limits.items():
        check_int(f"--{option.replace('_', '-')}", getattr(args, option), 1, high)


def _compare(prediction: labkit.SpeedPrediction, result: labkit.BenchmarkResult) -> list[tuple[str, str, str]]:
    """Return each predicted speed and the ratio of the measured speed to it."""
    speeds = (
        ("prompt", prediction.prompt_tokens_per_second, result.engine_prompt_tokens_per_second),
        ("generation", prediction.decode_tokens_per_second, result.engine_decode_tokens_per_second),
    )
    return [(name, f"{predicted:.1f}", f"{(measured or 0.0) / predicted:.2f}") for name, predicted, measured in speeds]


def _prompt(model: labkit.Model, n_tokens: int, first: int) -> str:
    """Return prose of ``n_tokens`` tokens, starting at its word ``first``; a few tokens fewer where no cut fits exactly."""
    prose = labkit.evaluation_text().split(" ", first)[-1] + " "  # prompts with a common prefix would share its computation
    text = prose * (1 + 8 * n_tokens // len(prose))
    low, high = 1, len(text)
    while low < high:  # find the longest prefix with at most n_tokens
        middle = (low + high + 1) // 2
        if labkit.count_tokens(model, text[:middle], add_special=True) <= n_tokens:
            low = middle
        else:
            high = middle - 1
    return text[:low]
