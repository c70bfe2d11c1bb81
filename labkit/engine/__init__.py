"""Load a model, generate text, count tokens.

To see how a token is made, read these nine files from top to bottom:

::

    generate           1. generate_text: what the caller passes, and the answer
    sampling_settings  2. temperature, top_k, …, checked
    tokenizer          3. text <-> tokens, with llama.cpp's tokenizer; a user's text never becomes a control token
    model              4. Model: sends the work to its thread, and keeps what its cache can use again
    worker             5. one thread per model (job: the calls on their way to it)
    generation         6. the loop: decode, sample, append, stop?
    stepping           7. llama_decode, each step with as many threads as are worth it
    sampler            8. llama.cpp's samplers: logits -> a token
    detokenizer        9. bytes of tokens -> whole characters, without the stop sequence

The same loop in 95 lines, without threads, cancelling, or care for the caller's mistakes, is in
``tests/conformance_files/solution.py``. What loading needs:

::

    loading        load_model
    options        its keyword arguments, checked
    settings       what it chooses, and why
    llama_loading  Llama's constructor, in the model's thread
    llama_methods  Llama's own methods, in the model's thread

`labkit.chat` answers conversations, `logits` has what a model computes before it chooses, and several files share `native`
(llama.cpp's C interface, its log, its abort flag), `prompt_cache`, `results` and `logprobs`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
