"""Parts that the explorers share."""
