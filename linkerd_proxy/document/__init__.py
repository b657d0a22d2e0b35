"""Reading documents that people write: YAML or JSON in, checked values out, every problem with its line and remedy."""
