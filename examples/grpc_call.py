"""Serve a gRPC method, and call it. Usage: grpc_call.py [LISTEN]"""

import sys

import trio

from linkerd_proxy import Client, Connect, Http, Rescue, open_listeners, opened, serve
from linkerd_proxy.grpc import Grpc, GrpcClient, Message, Method, ServerCall, unary
from linkerd_proxy.grpc.schema import int32, string


class HelloRequest(Message, name="hello.v1.HelloRequest"):
    name = string(1)
    times = int32(2)


class HelloReply(Message, name="hello.v1.HelloReply"):
    text = string(1)


SAY_HELLO = Method("/hello.v1.Greeter/SayHello", HelloRequest, HelloReply)


async def say_hello(request: HelloRequest, call: ServerCall[HelloRequest, HelloReply]) -> HelloReply:
    return HelloReply(text=f"hello {request.name} " * request.times)


async def main(listen: str = "127.0.0.1:50051", *_: str) -> None:
    listeners = await open_listeners(listen)
    print("listening on", listeners[0].address, flush=True)
    async with trio.open_nursery() as nursery, opened(Client() | Connect(listeners[0].address)) as service:
        nursery.start_soon(serve, Http() | Rescue() | Grpc(unary(SAY_HELLO, say_hello)), listeners)
        reply = await GrpcClient(service).unary(SAY_HELLO, HelloRequest(name="you", times=3), timeout=5)
        print("reply:", reply.text, flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
