"""Why a request failed: for each failure code what usually causes it, where to look, and what to do."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from linkerd_proxy.errors import CODES

__all__ = ["EXPLANATIONS", "OTHERS", "Explanation", "meaning"]

OTHERS = {
    "CANCEL": "The client went away before it had the whole answer, or the proxy was ended meanwhile.",
    "IO": "A socket failed on the client's side: a reset, or an error of the system.",
    "BUG": "An error that the proxy did not expect.",
}
"""Codes of metrics and logs that belong to no error of the proxy's own, and what they mean."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a person needs who looks at a failure.

    Args:
        cause: What usually is behind it.
        look: Where that can be seen.
        remedy: What to do.
    """

    cause: str
    look: str
    remedy: str


def meaning(code: str) -> str:
    """Return what a code says, in one sentence."""
    if code in OTHERS:
        return OTHERS[code]
    text = inspect.getdoc(CODES[code]) or ""
    return " ".join(text.partition("\n\n")[0].split())


EXPLANATIONS = {
    # --- the client's fault ---
    "DPE": Explanation(
        "The client's HTTP is malformed: a bad header, a length that contradicts itself, or bytes of another "
        "protocol on an HTTP port. Requests that two parsers could read differently are refused here and never "
        "forwarded.",
        "The log line says what was wrong. The upstream never saw it, so its log has nothing.",
        "Correct the client or its library; if the port does not speak HTTP, forward it as opaque.",
    ),
    "DPR": Explanation(
        "The request is well formed, but asks for what this proxy does not do: a header block that is too large "
        "(431), an expectation other than 100-continue (417), a transfer coding or a version that it does not "
        "know (501, 505).",
        "The status of the answer and the log line name which.",
        "Send it otherwise, or raise the limit in Limits(...) that the message names.",
    ),
    "DPL": Explanation(
        "A body, or a part of the message, is larger than a limit of the stack.",
        "The message names the limit and its value.",
        "Send less, or raise that limit.",
    ),
    "DT": Explanation(
        "The head or the body of a request came too slowly: a bad network, a client that was stopped in the "
        "middle, or an attack that holds connections open (slowloris).",
        'request_total does not count it; proxy_errors_total{error="DT"} and the log\'s peer addresses do.',
        "Nothing if it is an attack: the deadline did its work. Else raise the deadline that the message names.",
    ),
    "DD": Explanation(
        "A connection said nothing, or too little, for its protocol to be recognised. Most often the server "
        "speaks first (MySQL, SMTP, FTP): the client waits for a greeting, the proxy for the client.",
        "linkerd-proxy tap with Tap[Connection]() in the stack shows such connections, with their port.",
        "List the port as opaque (--opaque-ports, opaque_ports=...), or forward it with Forward() alone.",
    ),
    "DTF": Explanation(
        "The TLS handshake with a client failed: its certificate has expired or is of another authority, it has "
        "none and one is required, or it speaks an old version of TLS.",
        "The log line and the label reason of tls_handshake_failures_total say which. Compare the two proxies' ca.pem.",
        "Renew the client's certificate, or let both sides trust the same authority. If clocks differ, set them.",
    ),
    # --- the upstream's fault ---
    "UE": Explanation(
        "The upstream, or what stands for it, gave an answer that can't be used, in a way that no other code "
        "describes.",
        "The log line, and the upstream's own log at that time.",
        "Correct what the message names.",
    ),
    "UF": Explanation(
        "Nothing accepts connections at the upstream's address: it is not running, listens on another port or "
        "only on its loopback, or a firewall refuses.",
        "curl the address from the proxy's host. linkerd-proxy top shows the state of each endpoint.",
        "Start the upstream, or correct the address. Such requests were not sent, so they are safe to repeat.",
    ),
    "UFT": Explanation(
        "The upstream's host did not answer to the attempt to connect: it is down, unreachable, or a firewall "
        "drops packets silently; or its accept queue is full.",
        "ping or traceroute from the proxy's host; the upstream's count of connections (ss -lnt: Recv-Q).",
        "Mend the network, relieve the upstream, or raise Connect(timeout=...). The request was not sent.",
    ),
    "UTF": Explanation(
        "The TLS handshake with the upstream failed: its certificate has expired, is of an unknown authority, or "
        "it does not speak TLS on that port.",
        "The reason in the log line; openssl s_client -connect ADDRESS shows what the upstream presents.",
        "Renew the upstream's certificate, correct the trust anchors, or drop Originate(...) if it has no TLS.",
    ),
    "UIM": Explanation(
        "The upstream's certificate is valid, but names somebody else: an address was reused by another workload,"
        " or the expected name is misspelt. It may also be an attack, so nothing was sent.",
        "The message has both names. discovery's answer (linkerd-proxy top, column IDENTITY) says what was expected.",
        "Correct the expected identity, or find out what listens on that address.",
    ),
    "URX": Explanation(
        "The upstream said that it did not begin with the request: it drains (GOAWAY), or refuses more streams.",
        "The upstream's log for a restart or a limit on concurrent streams.",
        "Repeat it, as Retry() does by itself.",
    ),
    "UC": Explanation(
        "The upstream closed the connection before its answer was complete: it crashed, was killed (out of "
        "memory), or closed an idle connection at the same moment at which the request was sent.",
        "The upstream's log and exit status. If it is rare, compare the upstream's keep-alive timeout with the pool's.",
        "Mend the crash; for the race, let the upstream keep connections for longer than the pool does, or add "
        "Retry().",
    ),
    "UR": Explanation(
        "The upstream reset the stream or the connection: its handler failed, or it shed load.",
        "The upstream's log. The message has the HTTP/2 code, where there was one.",
        "Mend the handler; add Retry() for requests that may be repeated.",
    ),
    "UPE": Explanation(
        "The upstream's answer breaks HTTP: a bad header, a wrong length, or another protocol on that port.",
        "The log line says what was wrong; curl -v the upstream directly.",
        "Correct the upstream, or its port.",
    ),
    "SI": Explanation(
        "Nothing moved in either direction for longer than the idle timeout: a stuck handler, a vanished peer, or"
        " a stream that is quiet by nature (a watch, a long poll, a WebSocket).",
        "/tasks of the admin endpoint shows the layer in which such an exchange waits.",
        "Raise the idle timeout for streams that are quiet by nature, or send pings on them.",
    ),
    "UT": Explanation(
        "The whole exchange took longer than its deadline: a slow upstream, too many retries, or a deadline that "
        "is too short for what is asked.",
        "The latency of each endpoint in linkerd-proxy top; a trace shows which hop took the time.",
        "Make the upstream faster, or raise Timeout(...), or the caller's grpc-timeout.",
    ),
    # --- the proxy's own refusals ---
    "NR": Explanation(
        "No route fits the request's host, path, method or headers.",
        "/config of the admin endpoint draws the routes as they are; linkerd-proxy tap shows what the request "
        "looks like.",
        'Add a route, for example "/": ... for all the rest, or correct the client\'s URL.',
    ),
    "GD": Explanation(
        "A client asked the gateway for a name that it does not lead to.",
        "The name in the message, and the gateway's suffixes in /config.",
        "Correct the name, or add its domain: --gateway-suffixes.",
    ),
    "NB": Explanation(
        "A route fits, but its rule has no backend, or all weights are 0: a canary that was switched off, or a "
        "half finished change.",
        "/config shows the backends of each rule with their weights.",
        "Give the rule a backend with a weight above 0.",
    ),
    "NT": Explanation(
        "A Connect() without an address stands at the end of the stack, and nothing before it said where to go.",
        "/config: which layer should have set the target? For redirected traffic, is the listener opened with "
        "original_dst=True?",
        "Name an address, Connect('127.0.0.1:9000'), or redirect traffic, which keeps its destination.",
    ),
    "NC": Explanation(
        "The proxy has no certificate of its own that is valid now: its authority is away, or its files are "
        "missing or have expired. Readiness is off for as long.",
        "The identity's own log lines, control_identity_cert_expiration_timestamp_seconds, /ready.",
        "Bring the authority back or renew the files; they are read again by themselves.",
    ),
    "AD": Explanation(
        "The policy does not allow this client to do this: it has another identity than the policy names, none at"
        " all because its traffic is not meshed, or it comes from another network.",
        "The log line names the client as it proved to be; linkerd-proxy tap has client_id.",
        "Authorize that identity or network, or mesh the client.",
    ),
    "RL": Explanation(
        "The client sent more requests than its rate allows; retry-after says when to come again.",
        "The message names the limit; request_total by client_id shows who sends how much.",
        "Send less, spread it, or raise the rate.",
    ),
    "FI": Explanation(
        "The configuration injects failures, to try out how clients bear them.",
        "/config: Inject(...), or a failure injector in a route.",
        "Take it out once the experiment is over.",
    ),
    "FF": Explanation(
        "No endpoint of a balancer was ready for too long: discovery found none, none can be reached, or the "
        "breaker put all of them out after failures. Until one is ready, requests fail at once and do not queue.",
        "linkerd-proxy top lists the endpoints with their state; failures before the first FF say why they went out.",
        "Mend the endpoints or the discovery. A probe lets an endpoint in again by itself once it answers.",
    ),
    "UO": Explanation(
        "A limit on work in flight is reached, so the newest requests are shed to keep the others fast: more load"
        " than the upstream takes, or a slow upstream that lets requests pile up.",
        "request_in_flight and the latencies: is it the load that rose, or the upstream that slowed down?",
        "Add replicas, or raise the limit that the message names if there is room.",
    ),
    "LP": Explanation(
        "The request would come back to this proxy: its target is its own listener, or it has passed too many proxies.",
        "The target in the message and the listeners in /config; the Forwarded and Via fields of the request.",
        "Point the proxy at the application, not at itself.",
    ),
    "NA": Explanation(
        "A layer returned without answering: a mistake in a layer or handler of your own.",
        "check_layer(...) of linkerd_proxy.testing finds such layers.",
        "Let the innermost layer await exchange.respond(...) exactly once.",
    ),
    "AA": Explanation(
        "A layer answered twice: a mistake in a layer or handler of your own.",
        "check_layer(...) of linkerd_proxy.testing finds such layers.",
        "Call exchange.respond(...) with one final response only.",
    ),
    "PE": Explanation(
        "A failure that has no code of its own, mostly from a layer of your own that raises ProxyError.",
        "The log line has its text, and names the layer.",
        "Give such errors a class with a code of their own.",
    ),
    # --- no error of the proxy's ---
    "CANCEL": Explanation(
        "The user closed the page, the client's own deadline passed, or the proxy was told to end and its grace "
        "was over.",
        "response_latency_ms: if clients give up at a round figure, that is their timeout.",
        "Nothing if it is rare. Else answer faster, or let clients wait for longer.",
    ),
    "IO": Explanation(
        "The client's host vanished or reset the connection; where a port scanner or a health check by TCP "
        "connects and resets, that is normal.",
        "The peer's address in the log line: is it a load balancer's health check?",
        "Let health checks ask for /ready by HTTP.",
    ),
    "BUG": Explanation(
        "A mistake in the proxy, or in a layer of your own. Only that connection has ended.",
        "The log at the level debug has the trace-back: PUT debug to /proxy-log-level, without a restart.",
        "Please report it, with the trace-back.",
    ),
}
"""By code; every code has one."""
