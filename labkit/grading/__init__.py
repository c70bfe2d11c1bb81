"""Grading: untrusted notebooks run in a sandbox, compared with the course's answers, and what students get of it."""
