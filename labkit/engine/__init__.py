"""Load a model, generate text, count tokens.

To see how a token is made, read these ten files from top to bottom:

::

    generate           1. generate_text: what the caller passes, and the answer
    sampling_settings  2. temperature, top_k, …, checked
    chat_prompt        3. text and messages -> tokens; a user's text never becomes a control token
    tokenizer          4. text <-> tokens, with llama.cpp's tokenizer
    model              5. Model: sends the work to its thread, and keeps what its cache can use again
    worker             6. one thread per model (job: the calls on their way to it)
    generation         7. the loop: decode, sample, append, stop?
    stepping           8. llama_decode, each step with as many threads as are worth it
    sampler            9. llama.cpp's samplers: logits -> a token
    detokenizer       10. bytes of tokens -> whole characters, without the stop sequence

The same loop in 95 lines, without threads, cancelling, or care for the caller's mistakes, is in
``tests/conformance_files/solution.py``. What loading needs:

::

    loading        load_model
    options        its keyword arguments, checked
    settings       what it chooses, and why
    load_facts     what a header says that loading depends on, remembered
    known_layout   files that need no trial
    dry_run        the trial: a layout in a child process
    llama_loading  Llama's constructor, in the model's thread
    llama_methods  Llama's own methods, in the model's thread

For chats with current models:

::

    messages      roles, contents, calls of tools and their results, checked
    chat_options  thinking, tools, variables of the template -> the prompt
    thinking      reasoning and answer, split while they come; a budget for reasoning
    tool_choice   choose_tool: a tool and arguments that follow its schema

And what several of these share: `native` (llama.cpp's C interface, its log, its abort flag), `native_model` (pointers to a
loaded model), `prompt_cache`, `results`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
