"""Wrong implementations: each is a replacement in the solution's text, with the function that it breaks."""

GENERATE = "answer = model.create_completion(prompt, max_tokens=max_tokens, temperature=temperature, **kwargs)"
CHAT = "answer = model.create_chat_completion(list(messages), max_tokens=max_tokens, temperature=temperature, **kwargs)"
CACHE = 'keys[f"{arch}.block_count"] * n_ctx * heads * head_dim * 2 * 2'
FIRST = "firsts.append(time.perf_counter() - started)"

# name: (function that it breaks, old text, new text)
MUTANTS = {
    "limit one too high": (
        "generate_text",
        GENERATE,
        GENERATE.replace("max_tokens=max_tokens", "max_tokens=max_tokens + 1"),
    ),
    "limit one too low": ("generate_text", GENERATE, GENERATE.replace("max_tokens=max_tokens", "max_tokens=max_tokens - 1")),
    "limit ignored": ("generate_text", GENERATE, GENERATE.replace("max_tokens=max_tokens", "max_tokens=20")),
    "stop ignored": ("generate_text", GENERATE, 'kwargs.pop("stop", None); ' + GENERATE),
    "stop left in the text": (
        "generate_text",
        'return answer["choices"][0]["text"]',
        'return answer["choices"][0]["text"] + "".join(kwargs.get("stop", []))',
    ),
    "prompt echoed": ("generate_text", GENERATE, GENERATE.replace("**kwargs", "echo=True, **kwargs")),
    "temperature ignored": ("generate_text", GENERATE, GENERATE.replace("temperature=temperature", "temperature=0")),
    "always warm": (
        "generate_text",
        GENERATE,
        GENERATE.replace("temperature=temperature", "temperature=max(temperature, 1.5)"),
    ),
    "seed ignored": (
        "generate_text",
        GENERATE,
        "kwargs['seed'] = time.time_ns() % 2**31 if temperature else 0; " + GENERATE,
    ),
    "returns the whole answer": ("generate_text", 'return answer["choices"][0]["text"]', "return answer"),
    "returns nothing": ("generate_text", 'return answer["choices"][0]["text"]', 'answer["choices"][0]["text"]'),
    "no template": (
        "generate_chat",
        CHAT,
        'text = "\\n".join(message["content"] for message in messages); answer = {"choices": [{"message": {"content": '
        "generate_text(model, text, max_tokens, temperature)}}]}",
    ),
    "system dropped": (
        "generate_chat",
        CHAT,
        CHAT.replace("list(messages)", "[message for message in messages if message['role'] != 'system']"),
    ),
    "history dropped": (
        "generate_chat",
        CHAT,
        CHAT.replace("list(messages)", "[m for m in messages if m['role'] == 'system'] + messages[-1:]"),
    ),
    "messages changed": (
        "generate_chat",
        CHAT,
        "messages.append(messages[-1]); " + CHAT.replace("list(messages)", "messages[:-1]"),
    ),
    "chat limit ignored": ("generate_chat", CHAT, CHAT.replace("max_tokens=max_tokens", "max_tokens=40")),
    "context ignored": ("load_model", "n_ctx=n_ctx", "n_ctx=256"),
    "threads ignored": ("load_model", "n_threads=n_threads", "n_threads=2"),
    "missing file forgiven": ("load_model", "raise FileNotFoundError(model_path)", "return None"),
    "loads nothing": ("load_model", "return Llama(", "Llama("),
    "wrong head count": (
        "get_model_info",
        '"head_count": keys[f"{arch}.attention.head_count"]',
        '"head_count": keys[f"{arch}.attention.head_count_kv"]',
    ),
    "tensors counted as weights": ("get_model_info", "int(tensor.n_elements)", "1"),
    "bits for bytes": ("get_model_info", '"bits_per_weight": 8 * weights', '"bits_per_weight": weights'),
    "a key missing": ("get_model_info", '        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),\n', ""),
    "size in megabytes": (
        "get_model_info",
        '"file_size_bytes": Path(model_path).stat().st_size,\n        "bits',
        '"file_size_bytes": Path(model_path).stat().st_size / 1e6,\n        "bits',
    ),
    "cache of all heads": ("estimate_memory_usage", CACHE, CACHE.replace("heads", "3 * heads")),
    "keys without values": ("estimate_memory_usage", CACHE, CACHE.replace("* 2 * 2", "* 2")),
    "context not counted": ("estimate_memory_usage", CACHE, CACHE.replace("n_ctx", "2048")),
    "overhead left out": ("estimate_memory_usage", "weights + cache + overhead", "weights + cache"),
    "file size is all": ("estimate_memory_usage", "weights + cache + overhead", "weights"),
    "milliseconds": (
        "benchmark_inference",
        FIRST,
        FIRST.replace("append(", "append(1000 * (").replace("started)", "started))"),
    ),
    "prompt's time missed": (
        "benchmark_inference",
        "            if count == 0:\n                " + FIRST,
        "            if count == 1:\n                firsts.append(time.perf_counter() - previous)\n"
        "            previous = time.perf_counter()",
    ),
    "prompts counted for tokens": ("benchmark_inference", "total += max_tokens", "total += 1"),
    "speed upside down": ("benchmark_inference", "total / elapsed", "elapsed / total"),
    "memory in megabytes": (
        "benchmark_inference",
        "psutil.Process().memory_info().rss",
        "psutil.Process().memory_info().rss / 2**20",
    ),
    "beginning-of-text counted": ("count_tokens", "return len(model.tokenize(", "return 1 + len(model.tokenize("),
    "control tokens parsed": ("count_tokens", "special=False", "special=True"),
    "words counted": (
        "count_tokens",
        'len(model.tokenize(text.encode("utf-8"), add_bos=False, special=False))',
        "len(text.split())",
    ),
    "characters counted": ("count_tokens", 'model.tokenize(text.encode("utf-8"), add_bos=False, special=False)', "text"),
    "tokens returned": (
        "count_tokens",
        'len(model.tokenize(text.encode("utf-8"), add_bos=False, special=False))',
        'model.tokenize(text.encode("utf-8"), add_bos=False, special=False)',
    ),
}
