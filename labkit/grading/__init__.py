"""Grading: run untrusted notebooks in a sandbox, score the answers outside, write grades, feedback and reports."""
