"""The core: what a reader must understand first. Services, layers, stacks, messages, work, drain, serve."""
