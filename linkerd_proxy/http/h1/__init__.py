"""HTTP/1: heads, chunks and bodies without I/O, and the two sides of a connection."""
