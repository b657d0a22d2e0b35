"""What mypy --strict must refuse: each line marked E, with the codes of the errors, and no other."""

import linkerd_proxy
from linkerd_proxy import (
    Client,
    Connect,
    Connection,
    Detect,
    Dial,
    Exchange,
    Forward,
    Http,
    Rescue,
    Route,
    Stack,
    Timeout,
)

linkerd_proxy.Htpp()  # E: attr-defined

Http() | Forward()  # E: operator
Http() | Connect()  # E: operator
Forward() | Client()  # E: operator
Client() | Http()  # E: operator
Client() | Forward() | Connect()  # E: operator
Rescue() | Connect()  # E: operator
Http() | Http() | Client() | Connect()  # E: operator
Connect() | Connect()  # E: operator
Timeout(5) | 7  # E: operator

wrong_end: Stack[Connection] = Client() | Connect()  # E: assignment
wrong_head: Stack[Exchange] = Forward() | Connect()  # E: assignment
wrong_work: Stack[Dial] = Timeout(5) | Client() | Connect()  # E: assignment

Route({"/": Forward() | Connect()})  # E: dict-item
Detect(http=Client() | Connect(), otherwise=Forward() | Connect())  # E: arg-type
