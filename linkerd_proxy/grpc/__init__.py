"""gRPC in Trio: a client over any HTTP service, a server as the leaf of a stack, messages as tables."""

from linkerd_proxy.grpc.client import GrpcClient
from linkerd_proxy.grpc.metadata import Metadata
from linkerd_proxy.grpc.method import Encodable, Method
from linkerd_proxy.grpc.replies import Call, Replies
from linkerd_proxy.grpc.schema import Message
from linkerd_proxy.grpc.server import Grpc, Rpc, bidi, client_stream, server_stream, unary
from linkerd_proxy.grpc.serving import ServerCall
from linkerd_proxy.grpc.status import GrpcError
from linkerd_proxy.grpc_status import GrpcStatus

__all__ = [
    "Call",
    "Encodable",
    "Grpc",
    "GrpcClient",
    "GrpcError",
    "GrpcStatus",
    "Message",
    "Metadata",
    "Method",
    "Replies",
    "Rpc",
    "ServerCall",
    "bidi",
    "client_stream",
    "server_stream",
    "unary",
]
