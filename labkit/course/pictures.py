"""Pictures of a model at work, for the chapters: real numbers, drawn by `labkit.plots`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.engine import next_token_logits, token_text
from labkit.model_info import get_model_info
from labkit.plots import Picture, plot_cache_growth, plot_generation
from labkit.sampling import softmax

if TYPE_CHECKING:
    from labkit.engine import Model


def picture_generation(model: Model, prompt: str) -> Picture:
    """Draw the loop that writes a text, with the model's tokens and probabilities after a prompt."""
    chances = softmax(next_token_logits(model, prompt))
    likeliest = [int(token) for token in chances.argsort()[::-1][:4]]
    return Picture(
        plot_generation(
            [(token, token_text(model, token)) for token in _tokens(model, prompt)],
            n_layers=get_model_info(model.model_path).block_count or 0,
            candidates=[(token_text(model, token), float(chances[token])) for token in likeliest],
        )
    )


def picture_cache(model: Model, prompt: str, *, n_written: int = 2, n_cells: int = 10) -> Picture:
    """Draw the KV cache after a prompt and after each of the next tokens, always the likeliest."""
    tokens, text = [token_text(model, token) for token in _tokens(model, prompt)], prompt
    written: list[str] = []
    for _ in range(n_written):
        written.append(token_text(model, int(next_token_logits(model, text).argmax())))
        text += written[-1]
    n_layers = get_model_info(model.model_path).block_count or 0
    return Picture(plot_cache_growth(tokens, written, n_layers=n_layers, n_cells=max(n_cells, len(tokens) + n_written)))


def _tokens(model: Model, text: str) -> list[int]:
    with model.vocabulary() as vocabulary:
        return list(vocabulary.tokenize(text))
