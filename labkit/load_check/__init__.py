"""Whether a file is sound, and what loading needs to know about it; a crash in llama.cpp would end the process.

::

    facts          sizes, types and keys of a sound file, remembered until it changes
    known_layout   files with exactly the tensors of a known architecture: they need no trial
    dry_run        the trial: llama.cpp's layout in a child process (dry_run_child)
"""
