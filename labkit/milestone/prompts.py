"""The lab's ten prompts: short questions of different kinds, the same for everybody so that cards can be compared."""

from __future__ import annotations

__all__ = ["LAB_PROMPTS"]

LAB_PROMPTS = (
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about a lighthouse in winter.",
    "List five things to pack for a walk in the mountains.",
    "What is the difference between RAM and a hard disk?",
    "Translate into French: Where is the nearest railway station?",
    "Summarize the story of Romeo and Juliet in three sentences.",
    "Write a Python function that reverses a string.",
    "How many minutes are there in a week? Show the steps.",
    "Give me a recipe for bread with four ingredients.",
    "Why does a language model read all its weights for every token?",
)
