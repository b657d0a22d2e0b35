"""Where endpoints become known."""
