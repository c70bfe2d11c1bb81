"""What this process may use of the machine: cores, RAM, read bandwidth, and llama.cpp's build.

A process may not be allowed to use the whole machine: CPU affinity and a container's CPU quota and memory limit are
respected. llama.cpp runs best with one thread per physical core, because two hyper-threads share the arithmetic units.

::

    cgroups    container limits, read from a file tree that tests can replace
    load       how busy the machine is now
    busy       busy processes, to try what happens next to them
    cores      physical, performance and logical cores
    ram        free RAM, RSS, peak RSS
    huge_pages  pages of 2 MiB for weights and caches
    build      llama.cpp's CPU features, backends, devices and repacked types; instructions that it does not use
    engine_library  find llama.cpp's libraries, try them once in a subprocess (engine_child), import them
    library_file  why a library cannot be loaded here
    install    the command that installs a working llama.cpp here
    ggml       ggml's C functions
    bandwidth  RAM read speed, bytes per second
    profile    all of these in one record
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
