from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Position(_message.Message):
    __slots__ = ("epoch", "sequence")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    sequence: int
    def __init__(self, epoch: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class Changes(_message.Message):
    __slots__ = ("epoch", "sequence", "age_ns", "begins", "complete", "labels", "annotations", "changes", "problem", "in_doubt")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AGE_NS_FIELD_NUMBER: _ClassVar[int]
    BEGINS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    IN_DOUBT_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    sequence: int
    age_ns: int
    begins: bool
    complete: bool
    labels: _containers.RepeatedScalarFieldContainer[str]
    annotations: _containers.RepeatedScalarFieldContainer[str]
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    problem: str
    in_doubt: bool
    def __init__(self, epoch: _Optional[str] = ..., sequence: _Optional[int] = ..., age_ns: _Optional[int] = ..., begins: _Optional[bool] = ..., complete: _Optional[bool] = ..., labels: _Optional[_Iterable[str]] = ..., annotations: _Optional[_Iterable[str]] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ..., problem: _Optional[str] = ..., in_doubt: _Optional[bool] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("gone", "thing")
    GONE_FIELD_NUMBER: _ClassVar[int]
    THING_FIELD_NUMBER: _ClassVar[int]
    gone: bool
    thing: Thing
    def __init__(self, gone: _Optional[bool] = ..., thing: _Optional[_Union[Thing, _Mapping]] = ...) -> None: ...

class Thing(_message.Message):
    __slots__ = ("kind", "uid", "namespace", "name", "addresses", "node", "host", "zone", "owner_kind", "owner_name", "extra", "since_ns")
    KIND_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    OWNER_KIND_FIELD_NUMBER: _ClassVar[int]
    OWNER_NAME_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    uid: str
    namespace: str
    name: str
    addresses: _containers.RepeatedScalarFieldContainer[bytes]
    node: str
    host: str
    zone: str
    owner_kind: str
    owner_name: str
    extra: _containers.RepeatedScalarFieldContainer[str]
    since_ns: int
    def __init__(self, kind: _Optional[str] = ..., uid: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., addresses: _Optional[_Iterable[bytes]] = ..., node: _Optional[str] = ..., host: _Optional[str] = ..., zone: _Optional[str] = ..., owner_kind: _Optional[str] = ..., owner_name: _Optional[str] = ..., extra: _Optional[_Iterable[str]] = ..., since_ns: _Optional[int] = ...) -> None: ...
