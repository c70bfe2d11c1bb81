"""The chapters' pictures show what the model really does."""

import labkit
from labkit.course.pictures import picture_cache, picture_generation

PROMPT = "The capital of France is"


def test_pictures_have_the_models_numbers() -> None:
    """The prompt's tokens, the layers, the likeliest tokens and the written ones are those of this model."""
    with labkit.load_model(n_ctx=256) as model:
        loop, cache = picture_generation(model, PROMPT).text, picture_cache(model, PROMPT).text
        text = labkit.generate_text(model, PROMPT, max_tokens=2, temperature=0)
    assert "The prompt “The capital of France is” is 5 tokens: 504 “The”, 3575 “ capital”" in loop
    assert "30 layers" in loop
    assert "The sampler chooses “ Paris”" in loop
    assert "After the prompt: 5 columns filled" in cache
    assert "After “ Paris”: 6 columns filled, 1 of them new" in cache
    assert f"After “{text.removeprefix(' Paris')}”: 7 columns filled" in cache
