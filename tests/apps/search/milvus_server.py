"""A server of Milvus' protocol for tests: milvus-lite, which here takes float16 and indexes that it does not have."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from milvus_lite.adapter.grpc import server as lite
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

HALF, FULL = schema_pb2.DataType.Float16Vector, schema_pb2.DataType.FloatVector
INDEXES = {"DISKANN": "HNSW", "IVF_PQ": "IVF_FLAT"}


class Standalone(MilvusServicer):
    """Says that it is a server, keeps float16 as float32, and needs an index before it searches."""

    def GetVersion(self, request, context):
        return milvus_pb2.GetVersionResponse(status=common_pb2.Status(), version="2.6.1")

    def CreateCollection(self, request, context):
        schema = schema_pb2.CollectionSchema.FromString(request.schema)
        for field in schema.fields:
            if field.data_type == HALF:
                field.data_type, field.description = FULL, "half"
                self.half = request.collection_name
        request.schema = schema.SerializeToString()
        return super().CreateCollection(request, context)

    def DescribeCollection(self, request, context):
        answer = super().DescribeCollection(request, context)
        for field in answer.schema.fields:
            if field.data_type == FULL and request.collection_name == getattr(self, "half", None):
                field.data_type = HALF
        return answer

    def LoadCollection(self, request, context):
        if not self._get_collection(request, context).has_index():
            return common_pb2.Status(code=700, reason="there is no vector index on field")
        return super().LoadCollection(request, context)

    def CreateIndex(self, request, context):
        for pair in request.extra_params:
            pair.value = INDEXES.get(pair.value, pair.value) if pair.key == "index_type" else pair.value
        return super().CreateIndex(request, context)

    def DescribeIndex(self, request, context):
        answer = super().DescribeIndex(request, context)
        named = {ours: theirs for theirs, ours in INDEXES.items() if ours != "HNSW"}
        for pair in [pair for one in answer.index_descriptions for pair in one.params if pair.key == "index_type"]:
            pair.value = named.get(pair.value, pair.value)
        return answer

    def Upsert(self, request, context):
        for field in request.fields_data:
            if field.type == HALF:
                numbers = np.frombuffer(field.vectors.float16_vector, np.float16).astype(np.float32)
                field.type = FULL
                field.vectors.float_vector.data.extend(numbers.tolist())
        return super().Upsert(request, context)

    def Search(self, request, context):
        group = common_pb2.PlaceholderGroup.FromString(request.placeholder_group)
        for one in group.placeholders:
            if one.type == common_pb2.PlaceholderType.Float16Vector:
                values = [np.frombuffer(value, np.float16).astype(np.float32).tobytes() for value in one.values]
                one.type = common_pb2.PlaceholderType.FloatVector
                del one.values[:]
                one.values.extend(values)
        request.placeholder_group = group.SerializeToString()
        return super().Search(request, context)

    def Query(self, request, context):
        answer = super().Query(request, context)
        for field in answer.fields_data:
            if field.type == FULL and request.collection_name == getattr(self, "half", None):
                numbers = np.array(field.vectors.float_vector.data, np.float32)
                field.type = HALF
                field.vectors.float16_vector = numbers.astype(np.float16).tobytes()
        return answer


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run a server on a free port; yields its address."""
    lite.MilvusServicer, before = Standalone, lite.MilvusServicer
    try:
        server, database, port = lite.start_server_in_thread(str(folder))
    finally:
        lite.MilvusServicer = before
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(grace=0)
        database.close()
