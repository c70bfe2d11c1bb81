"""A process for a stranger's notebook: no network, no files but its own, little memory, an end."""
