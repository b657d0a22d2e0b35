"""TLS and identity: who a peer is, proved by certificates that renew themselves."""
