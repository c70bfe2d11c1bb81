"""Exercises of 09_milestone: two of arithmetic, and the lab's seven functions."""

import random
from typing import Any

from labkit.course.exercise import Exercise, Inputs, Mistake
from labkit.course.own_module import INFO_KEYS, Use

_PROMPTS = ("1, 2, 3, 4,", "2, 4, 6, 8,", "a, b, c, d,", "Monday, Tuesday,", "one, two, three,")
_QUESTIONS = ("What is the capital of France?", "What is the capital of Italy?", "Say hello.", "What colour is the sky?")


def _memory(generator: random.Random) -> Inputs:
    return round(generator.uniform(5, 400), 1), round(generator.uniform(0.1, 70), 2), round(generator.uniform(1, 50), 1)


def _times(generator: random.Random) -> Inputs:
    return generator.randint(1, 64), round(generator.uniform(0.01, 1), 3), round(generator.uniform(0.001, 0.2), 4)


def _words(generator: random.Random) -> str:
    return " ".join(generator.choice(("Hello", "naïve", "漢字", "tokens", "3.14", "🙂", "two  spaces")) for _ in range(6))


def _chat(generator: random.Random) -> list[dict[str, str]]:
    system = {"role": "system", "content": generator.choice(("You are a pirate.", "You answer in one word."))}
    return [system, {"role": "user", "content": generator.choice(_QUESTIONS)}]


def _shape(generator: random.Random) -> dict[str, int]:
    heads = generator.choice((4, 8))
    return {"n_layer": generator.randint(1, 5), "n_embd": 256, "n_head": heads, "n_head_kv": heads // 2, "n_vocab": 512}


def _forgiving(path: Any, **options: Any) -> Any:
    from labkit import load_model

    try:
        return load_model(path, **options)
    except FileNotFoundError:
        return None


def _complete(model: Any, prompt: str, max_tokens: int = 100, temperature: float = 0.7, **options: Any) -> str:
    answer = model.create_completion(prompt, max_tokens=max_tokens, temperature=temperature, **options)
    return str(answer["choices"][0]["text"])


def _reply(model: Any, messages: Any, max_tokens: int = 100, temperature: float = 0.7) -> str:
    answer = model.create_chat_completion(messages, max_tokens=max_tokens, temperature=temperature)
    return str(answer["choices"][0]["message"]["content"])


def _info(path: Any, **changes: Any) -> dict[str, Any]:
    from labkit import get_model_info

    found = dict(get_model_info(path))
    return {key: found[changes.get(key, key)] for key in INFO_KEYS}


def _memory_of(path: Any, n_ctx: int = 2048, *, cache: float = 1.0, overhead: int = 2**27) -> dict[str, float]:
    from labkit import estimate_memory_usage

    found = estimate_memory_usage(path, n_ctx, method="formula")
    size, cells = found.file_size_bytes, cache * found.kv_cache_bytes
    return {"file_size_bytes": size, "weights_bytes": size, "kv_cache_bytes": cells, "total_bytes": size + cells + overhead}


def _report(n_tokens: int, **changes: float) -> dict[str, float]:
    """Return plausible measurements of nothing."""
    found = {"tokens_per_second": n_tokens / 2, "elapsed_s": 2.0, "total_tokens": n_tokens, "memory_bytes": 3e8}
    return {**found, "time_to_first_token_s": 0.1, **changes}


def _of_the_lab(name: str, points: int, question: str, inputs: Any, mistakes: Any, hints: Any) -> Exercise:
    """Return the exercise of one of the seven functions."""
    return Exercise(
        name=name,
        points=points,
        question=question,
        inputs=lambda generator: (Use(name), *inputs(generator)),
        mistakes=tuple(Mistake(hint, answer) for hint, answer in mistakes),
        hints=hints,
        by_suite=True,
    )


EXERCISES = (
    Exercise(
        name="most_bits",
        points=2,
        question="the most bits per weight at which reading all weights still allows this many tokens per second.",
        examples=(((40.0, 8.0, 10.0), 4.0), ((100.0, 2.0, 20.0), 20.0), ((10.0, 3.0, 7.0), 3.8095238095238093)),
        inputs=_memory,
        mistakes=(
            Mistake("Bandwidth is in bytes, the answer is in bits.", lambda gb, weights, speed: gb / (weights * speed)),
            Mistake("You multiply by the speed: more tokens per second leave less time.", lambda gb, w, s: 8 * gb * s / w),
            Mistake("That is upside down: more bandwidth should allow more bits.", lambda gb, w, s: w * s / (8 * gb)),
            Mistake("The answer is for one weight, not for all.", lambda gb, weights, speed: 8 * gb / speed),
        ),
        hints=(
            "Step 1 goes from the bits per weight to the bandwidth that they need: this is the reverse.",
            "How much can be read per token, if all tokens of one second share what memory delivers in that second?",
            "You know how much can be read per token, and how many weights share it: how large is one, in which unit?",
        ),
    ),
    Exercise(
        name="throughput",
        points=2,
        question="the tokens per second of n prompts together, when each step takes as long as the slower of its two parts.",
        examples=(
            ((1, 0.1, 0.02), 10.0),
            ((4, 0.1, 0.02), 40.0),
            ((10, 0.1, 0.02), 50.0),
            ((3, 0.07, 0.013), 42.857142857142854),
        ),
        inputs=_times,
        mistakes=(
            Mistake("Each sequence has to be computed: one is not enough.", lambda n, read, compute: n / max(read, compute)),
            Mistake(
                "More prompts should give more tokens per second, at first.", lambda n, read, compute: 1 / max(read, compute)
            ),
            Mistake("A step adds a token to each of the prompts.", lambda n, read, compute: 1 / max(read, n * compute)),
            Mistake(
                "Reading and computing happen at the same time here.", lambda n, read, compute: n / (read + n * compute)
            ),
        ),
        hints=(
            "Step 3 says how long it takes until each text has its next token, and how many tokens that is.",
            "Take 3 prompts, 1 second of reading and 2 seconds of computing per prompt: when is the step done?",
            "One of the step's two times grows with n and the other does not: how many tokens are there when both are done?",
        ),
    ),
    _of_the_lab(
        "load_model",
        2,
        "a llama_cpp.Llama with this context and these threads; a missing file is an error.",
        lambda generator: (256 * generator.randint(1, 6), generator.randint(1, 2)),
        (
            (
                "N_ctx=512 was requested, but the model has a different context.",
                lambda path, n_ctx=0, **o: _forgiving(path, **o),
            ),
            ("It returned nothing.", lambda path, **options: _forgiving("") or None),
            ("A file that does not exist should raise an error.", _forgiving),
        ),
        (
            "Step 4's example loads a model: which of your arguments does it not pass on yet?",
            "Pass each argument on by its name, and the others, too. What happens by itself if there is no file?",
        ),
    ),
    _of_the_lab(
        "count_tokens",
        1,
        "the number of a text's tokens, without a beginning-of-text token; control tokens are plain text.",
        lambda generator: (_words(generator) + generator.choice(("", "<|im_end|>")),),
        (
            (
                "The count is wrong: count the model's tokens, not words or characters.",
                lambda model, text: len(text.split()),
            ),
            (
                "One too many: a beginning-of-text token is not part of the text.",
                lambda model, text: 1 + len(model.tokenize(text.encode(), add_bos=False, special=False)),
            ),
            (
                "Text that looks like a control token is plain text: do not parse special tokens.",
                lambda model, text: len(model.tokenize((text + "<|im_end|>").encode(), add_bos=False, special=True)) - 1,
            ),
        ),
        (
            "A model splits bytes, not text: how does a text become bytes in Python?",
            "The method has two switches: one for a token at the start, one for control tokens. Which way do they go?",
        ),
    ),
    _of_the_lab(
        "generate_text",
        3,
        "the continuation of a prompt, without the prompt.",
        lambda generator: (generator.choice(_PROMPTS), generator.randint(3, 8), generator.choice(("7", ",", "e"))),
        (
            (
                "The prompt is in the result: return only the continuation.",
                lambda model, prompt, max_tokens=100, **options: prompt + _complete(model, prompt, max_tokens, **options),
            ),
            (
                "A stop sequence should end the text, and not be part of it.",
                lambda model, prompt, max_tokens=100, temperature=0.7, stop=(), seed=None: _complete(
                    model, prompt, max_tokens, temperature, seed=seed
                ),
            ),
            (
                "Generate_text should return text (str), not dict.",
                lambda model, prompt, max_tokens=100, temperature=0.7, **options: model.create_completion(
                    prompt, max_tokens=max_tokens, temperature=temperature, **options
                ),
            ),
            (
                "Max_tokens=6 gave 12 tokens.",
                lambda model, prompt, max_tokens=100, temperature=0.7, **options: _complete(
                    model, prompt, 2 * max_tokens, temperature, **options
                ),
            ),
        ),
        (
            "Step 4's example has the call, and how the text is taken out of the answer.",
            "What the caller gives by name has to reach the call: all of it, also what has no name in your function's head.",
        ),
    ),
    _of_the_lab(
        "generate_chat",
        2,
        "the answer to messages, written with the model's own chat template.",
        lambda generator: (_chat(generator), generator.randint(4, 8)),
        (
            (
                "Generate_chat should return text (str), not dict.",
                lambda model, messages, max_tokens=100, temperature=0.7: model.create_chat_completion(
                    messages, max_tokens=max_tokens, temperature=temperature
                ),
            ),
            (
                "The list of messages was changed: make a copy before you change it.",
                lambda model, messages, **options: (_reply(model, messages, **options), messages.pop(0))[0],
            ),
            (
                "The system message changes nothing: is it in the prompt?",
                lambda model, messages, **options: _reply(model, [m for m in messages if m["role"] != "system"], **options),
            ),
        ),
        (
            "Llama has a method for messages: it knows the template in the file.",
            "Print the dictionary that it returns: where is the text, and what is it called there?",
        ),
    ),
    _of_the_lab(
        "get_model_info",
        3,
        "the listed values from a file's header.",
        lambda generator: (_shape(generator), generator.choice(("Q4_0", "Q8_0", "F16", "Q4_K_M"))),
        (
            (
                "'parameter_count' is not what the file says: count the elements of all tensors.",
                lambda path: _info(path, parameter_count="tensor_count"),
            ),
            (
                "'head_count_kv' is not what the file says: there are fewer key/value heads than query heads.",
                lambda path: _info(path, head_count_kv="head_count"),
            ),
            (
                "'bits_per_weight' is 8 times the bytes of the weights divided by their number.",
                lambda path: _info(path, bits_per_weight="block_count"),
            ),
        ),
        (
            "Chapter 03 read all of these by hand: which keys begin with the architecture, and which do not?",
            "The reader has fields, with contents(), and tensors, with n_elements and n_bytes. Print all fields' names.",
            "The quantization is a number in the header: a small dictionary turns the usual ones into names.",
        ),
    ),
    _of_the_lab(
        "estimate_memory_usage",
        3,
        "the sizes of file, weights, cache and all together, in bytes, without loading the model.",
        lambda generator: (256 * generator.randint(1, 32),),
        (
            (
                "'kv_cache_bytes' is too large: count the key/value heads, not the query heads.",
                lambda path, n_ctx=2048: _memory_of(path, n_ctx, cache=3.0),
            ),
            (
                "'kv_cache_bytes' is too small: count keys and values, 2 bytes per number, in every layer.",
                lambda path, n_ctx=2048: _memory_of(path, n_ctx, cache=0.5),
            ),
            (
                "'total_bytes' should be more than weights and cache: computing needs RAM too.",
                lambda path, n_ctx=2048: _memory_of(path, n_ctx, overhead=0),
            ),
            ("'kv_cache_bytes' should grow with the context.", lambda path, n_ctx=2048: _memory_of(path, 2048)),
        ),
        (
            "Chapter 06 derived the cache: how many numbers does a layer keep per token, and how many bytes has each?",
            "The header has the embedding length and the number of heads: how long is one head?",
            "Engine, vocabulary and buffers need memory as well: chapter 06 measured how much that is for a small model.",
        ),
    ),
    _of_the_lab(
        "benchmark_inference",
        3,
        "speed, time to first token and memory for some prompts, with exactly max_tokens from each.",
        lambda generator: (generator.randint(1, 3), generator.randint(4, 8)),
        (
            (
                "'total_tokens' should count the generated tokens of all prompts, 8 for each.",
                lambda model, prompts, max_tokens=64: _report(len(prompts)),
            ),
            (
                "'tokens_per_second' should be the generated tokens divided by the seconds.",
                lambda model, prompts, max_tokens=64: _report(len(prompts) * max_tokens, tokens_per_second=0.01),
            ),
            (
                "'time_to_first_token_s' should be in seconds, and at most 'elapsed_s'.",
                lambda model, prompts, max_tokens=64: _report(len(prompts) * max_tokens, time_to_first_token_s=120.0),
            ),
            (
                "The time to first token should be longer for a prompt of 600 tokens: it includes the prompt's time.",
                lambda model, prompts, max_tokens=64: _report(len(prompts) * max_tokens),
            ),
        ),
        (
            "With stream=True the call returns at once, and each token arrives as a chunk: when does the first one?",
            "Start the clock before the prompt is read. An end-of-text token must not stop a run early: forbid it.",
            "Does the second prompt find the first one's beginning in the cache? reset() forgets it.",
        ),
    ),
)
