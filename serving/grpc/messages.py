"""The messages of the Open Inference Protocol and of gRPC's health check, by their specifications' field numbers.

They are built at run time: code that protoc generates works with some versions of the protobuf library alone.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
NOTATION = """
ServerLiveRequest
ServerLiveResponse: 1 live bool
ServerReadyRequest
ServerReadyResponse: 1 ready bool
ModelReadyRequest: 1 name string, 2 version string
ModelReadyResponse: 1 ready bool
ServerMetadataRequest
ServerMetadataResponse: 1 name string, 2 version string, 3 extensions string*
ModelMetadataRequest: 1 name string, 2 version string
TensorMetadata: 1 name string, 2 datatype string, 3 shape int64*
ModelMetadataResponse: 1 name string, 2 versions string*, 3 platform string, 4 inputs TensorMetadata*, \
5 outputs TensorMetadata*
Parameter: 1 bool_param bool, 2 int64_param int64, 3 string_param string, 4 double_param double, 5 uint64_param uint64
Entry: 1 key string, 2 value Parameter
Contents: 1 bool_contents bool*, 2 int_contents int32*, 3 int64_contents int64*, 4 uint_contents uint32*, \
5 uint64_contents uint64*, 6 fp32_contents float*, 7 fp64_contents double*, 8 bytes_contents bytes*
Tensor: 1 name string, 2 datatype string, 3 shape int64*, 4 parameters Entry*, 5 contents Contents
RequestedOutput: 1 name string, 2 parameters Entry*
ModelInferRequest: 1 model_name string, 2 model_version string, 3 id string, 4 parameters Entry*, 5 inputs Tensor*, \
6 outputs RequestedOutput*, 7 raw_input_contents bytes*
ModelInferResponse: 1 model_name string, 2 model_version string, 3 id string, 4 parameters Entry*, 5 outputs Tensor*, \
6 raw_output_contents bytes*
ModelStreamInferResponse: 1 error_message string, 2 infer_response ModelInferResponse
RepositoryIndexRequest: 1 repository_name string, 2 ready bool
ModelIndex: 1 name string, 2 version string, 3 state string, 4 reason string
RepositoryIndexResponse: 1 models ModelIndex*
RepositoryParameter: 1 bool_param bool, 2 int64_param int64, 3 string_param string, 4 bytes_param bytes
RepositoryEntry: 1 key string, 2 value RepositoryParameter
RepositoryModelLoadRequest: 1 repository_name string, 2 model_name string, 3 parameters RepositoryEntry*
RepositoryModelLoadResponse
RepositoryModelUnloadRequest: 1 repository_name string, 2 model_name string, 3 parameters RepositoryEntry*
RepositoryModelUnloadResponse
ModelStatisticsRequest: 1 name string, 2 version string
StatisticDuration: 1 count uint64, 2 ns uint64
InferStatistics: 1 success StatisticDuration, 2 fail StatisticDuration, 3 queue StatisticDuration, \
4 compute_input StatisticDuration, 5 compute_infer StatisticDuration, 6 compute_output StatisticDuration
ModelStatistics: 1 name string, 2 version string, 3 last_inference uint64, 4 inference_count uint64, \
5 execution_count uint64, 6 inference_stats InferStatistics
ModelStatisticsResponse: 1 model_stats ModelStatistics*
HealthCheckRequest: 1 service string
HealthCheckResponse: 1 status int32
"""
"""A line for each message: number, name and type of each field, * where it is repeated; maps as their entries."""

FIELD = descriptor_pb2.FieldDescriptorProto


def _file() -> Any:
    # proto2 keeps apart a parameter that is false from one that is not there; on the wire they are the same.
    file = descriptor_pb2.FileDescriptorProto(name="onetrunk/inference.proto", package=PACKAGE, syntax="proto2")
    for line in NOTATION.strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for field in filter(None, fields.split(",")):
            number, label, kind = field.split()
            repeated = FIELD.LABEL_REPEATED if kind.endswith("*") else FIELD.LABEL_OPTIONAL
            added = message.field.add(name=label, number=int(number), label=repeated)
            scalar = f"TYPE_{kind.rstrip('*').upper()}"
            if scalar in FIELD.Type.keys():  # noqa: SIM118 - an enumeration, not a mapping
                added.type = FIELD.Type.Value(scalar)
            else:
                added.type, added.type_name = FIELD.TYPE_MESSAGE, f".{PACKAGE}.{kind.rstrip('*')}"
    return file


_POOL = descriptor_pool.DescriptorPool()  # of its own: clients in the same process may have the messages too
_POOL.Add(_file())


def message(name: str) -> Any:
    """Return the class of a message."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
