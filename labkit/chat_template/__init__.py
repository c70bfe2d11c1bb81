"""Chat templates, rendered with time and memory limits in a subprocess (render_child).

::

    render        a template's text for messages, tools and variables
    conversation  which message each piece of the text comes from, and that none is missing
    thinking      the marks around reasoning, read from the template itself
    tools         functions -> schemas; calls and results in words for templates without tools
"""
