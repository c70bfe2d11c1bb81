"""What each architecture asserts about its heads, from llama.cpp's graphs (src/models/*.cpp, revision 0c1e570).

An architecture that is not listed is not checked here; a dry run in a child process covers it.
"""

_EQUAL_HEADS_NAMES = """
    afmoe apertus arcee arctic baichuan bailingmoe2 bert bitnet bloom chameleon chatglm codeshell cogvlm
    cohere2 cohere2moe command-r dbrx deci deepseek dflash dots1 dream eagle3 ernie4_5 ernie4_5-moe
    eurobert exaone exaone-moe exaone4 falcon glm4 glm4moe gpt2 gptneox granite granite_swa
    granitehybrid granitemoe graniteswitch grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl hy_v3
    internlm2 jais jais2 jina-bert-v2 jina-bert-v3 laguna llada llada-moe llama llama-embed llama4
    maincoder maple mellum minicpm minimax-01 minimax-m2 minimax-m3 mistral3 modern-bert mpt
    muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo
    olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo pockettts qwen qwen2
    qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp
    refact rnd1 seed_oss smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 t5 t5encoder talkie
    xverse
"""
EQUAL_HEADS = frozenset(_EQUAL_HEADS_NAMES.split())
"""Architectures whose key and value heads must be equally long (``n_embd_head == n_embd_head_k``)."""

_FULL_ROTATION_NAMES = """
    apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deepseek dots1 dream
    ernie4_5 ernie4_5-moe exaone exaone-moe exaone4 granite granite_swa granitemoe graniteswitch grok
    grovemoe hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais2 llada llada-moe llama4 maincoder
    mellum minicpm mistral3 olmo olmo2 olmoe orion paddleocr pangu-embedded plamo pockettts qwen2
    qwen2moe qwen2vl qwen3 qwen3moe qwen3tts qwen3vl qwen3vlmoe rnd1 seed_oss smallthinker smollm3
    starcoder2 talkie xverse
"""
FULL_ROTATION = frozenset(_FULL_ROTATION_NAMES.split())
"""Architectures that rotate whole heads (``n_embd_head == n_rot``) and give no error when a file differs."""

WITHOUT_ROTATION = frozenset({"glm5-next"})
"""Architectures that need ``rope.dimension_count`` to be 0; in the others a 0 causes an endless loop."""

WITH_SECTIONS = frozenset({
    "qwen2vl", "paddleocr", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp", "qwen3tts",
})  # fmt: skip
"""Architectures that rotate by ``rope.dimension_sections``; others do where these are not 0 (``llama_model_rope_type``)."""

LATENT = frozenset({"deepseek2", "deepseek2-ocr", "deepseek32", "glm-dsa", "mistral4"})
"""Architectures with the latent attention of deepseek2.cpp and its assertions."""

OPTIONAL_ATTENTION = frozenset({"phi3", "pockettts"})
"""Architectures whose loader silently accepts missing attention weights, which the graph then dereferences."""
