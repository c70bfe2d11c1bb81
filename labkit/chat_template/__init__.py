"""Chat templates, rendered with time and memory limits in a subprocess (render_child)."""
