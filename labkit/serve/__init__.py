"""An OpenAI-compatible server for one model: many clients, one loop.

::

    requests      a client's JSON -> a checked request, or an error in OpenAI's form
    scheduler     the loop of `labkit.batch` for requests that come at any time, in the model's thread
    prefix_cache  computed prefixes, found again in the slots and in a store with a byte budget
    answers       the JSON of answers, and server-sent events
    app           the paths, and what guards them
    metrics       Prometheus
    server        serve_model: the sockets, the threads, start and end
    schedule      what many users have to expect, as arithmetic
    load          the same, measured
"""

from labkit.serve.server import Server, serve_model

__all__ = ["Server", "serve_model"]
