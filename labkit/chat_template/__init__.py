"""Chat templates, rendered within limits, in a process of its own (render_child)."""
