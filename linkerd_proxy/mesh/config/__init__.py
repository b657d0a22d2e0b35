"""A whole proxy as a document: what the keys of a file are, and the stack that they make."""
