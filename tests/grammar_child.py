"""Check grammars with llama.cpp: one JSON text per line on stdin, "yes" or "no" per line out. Started by test_grammar.py.

"yes" means that llama.cpp parsed the grammar and that one pass over the vocabulary finished.
"""

from __future__ import annotations

import json
import sys

import labkit
from labkit.engine.native import C


def main() -> None:
    model = labkit.load_model(sys.argv[1], n_ctx=256, n_threads=1)
    vocab = model.native.vocab
    for line in sys.stdin:
        sampler = C.llama_sampler_init_grammar(vocab, json.loads(line).encode(), b"root")
        if sampler:
            tokens = (C.llama_token_data * 8)(*((token, 0.0, 0.0) for token in range(97, 105)))
            array = C.llama_token_data_array(tokens, 8, -1, False)
            C.llama_sampler_apply(sampler, array)
            C.llama_sampler_free(sampler)
        print("yes" if sampler else "no", flush=True)


if __name__ == "__main__":
    main()
