"""A gRPC client that knows nothing of Lobos: what it calls, reflection tells it."""

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)


class Generic:
    """Calls methods of one service by name, with and into plain dictionaries."""

    def __init__(self, address, service="loboscontrol.ControlPlane"):
        self.channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.service = DescriptorPool(self.database).FindServiceByName(service)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def methods(self):
        return [method.name for method in self.service.methods]

    def message(self, method, answer=True):
        """The class of a method's answers, or of its requests."""
        found = self.service.FindMethodByName(method)
        return GetMessageClass(found.output_type if answer else found.input_type)

    def call(self, method, **fields):
        """The answer; of a stream an iterator."""
        return self.send(method, json_format.ParseDict(fields, self.message(method, False)()))

    def send(self, method, request):
        """The same with a message, or with any bytes in place of one."""
        found = self.service.FindMethodByName(method)
        kind = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
        encode = (lambda raw: raw) if isinstance(request, bytes) else type(request).SerializeToString
        called = kind(f"/{self.service.full_name}/{method}", encode, self.message(method).FromString)
        answer = called(request, timeout=30)
        plain = lambda message: json_format.MessageToDict(  # noqa: E731
            message, preserving_proto_field_name=True)
        return map(plain, answer) if found.server_streaming else plain(answer)

    def refused(self, code, method, *named, **fields):
        """The call must fail with this code; its details must name these fields."""
        with pytest.raises(grpc.RpcError) as error:
            answer = self.call(method, **fields)
            if not isinstance(answer, dict):
                list(answer)
        return judged(error.value, code, named)


def judged(error, code, named=()):
    assert error.code() == getattr(grpc.StatusCode, code), error
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    for name in named:
        assert b"google.rpc.BadRequest" in details and name.encode() in details, (name, details)
    return error.details()
