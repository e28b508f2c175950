"""Every error that onetrunk raises for a caller's mistake or a damaged store.

OneTrunkError
├── InvalidNameError            (ValueError)       a task, alias, ref or backbone name is malformed
├── InvalidSettingError         (ValueError)       an option has a value that no run can use
├── NotFoundError               (LookupError)
│   ├── StoreNotFoundError                         no store at this folder
│   ├── TaskNotFoundError                          no task of this name
│   ├── VersionNotFoundError                       the task has no such version, alias or digest
│   └── BackboneNotFoundError                      no backbone of this name or fingerprint
├── ConflictError               (FileExistsError)  the name is taken by something else
│   └── InUseError                                 an alias, a lease or a version holds what should go
├── ReadOnlyStoreError          (PermissionError)  the store's folder cannot be written
├── NotAllowedError             (PermissionError)  a protected alias, or an API key without the scope
│   └── UnknownKeyError                            no API key, or one that is not in force
├── StorageError                (OSError)          the disk, the bucket or the database failed
├── FormatError                 (ValueError)       a file is not in the format that it claims
│   ├── NewerFormatError                           written by a newer onetrunk
│   └── OlderFormatError                           written by an older onetrunk, to be migrated first
├── IntegrityError              (ValueError)       bytes differ from the digest that names them
├── RefusedError                (ValueError)       what could not be served correctly is not published
│   ├── GateError                                  a version without the certificate that an alias asks for
│   ├── UnservedAdapterError                       a PEFT method or option with no exact served form
│   ├── AdapterMismatchError                       adapter tensors do not fit the backbone or the depth
│   ├── HeadMismatchError                          the head's width is not its number of classes
│   └── BackboneMismatchError                      made on another backbone than the one at hand
├── UnservedBackboneError       (ValueError)       not a timm VisionTransformer that the engine restates
├── ImageError                  (ValueError)       bytes that are no image that can be decoded safely
├── DataError                   (ValueError)       a data set that no task can be tuned or scored on
├── ServerError                 (ConnectionError)  a server that does not answer, or answers with an error
├── OverloadedError             (RuntimeError)     the queue is full; the request was not started
│   └── DeadlineError                              the answer would come after the deadline that was asked for
└── PortTakenError              (OSError)          another program listens on the port

Each message is one line: the value, the rule it breaks, and the remedy.
"""

from __future__ import annotations


class OneTrunkError(Exception):
    """Base of every error above; its message is one line fit to be shown to a user."""


class InvalidNameError(OneTrunkError, ValueError): ...


class InvalidSettingError(OneTrunkError, ValueError): ...


class NotFoundError(OneTrunkError, LookupError): ...


class StoreNotFoundError(NotFoundError): ...


class TaskNotFoundError(NotFoundError): ...


class VersionNotFoundError(NotFoundError): ...


class BackboneNotFoundError(NotFoundError): ...


class ConflictError(OneTrunkError, FileExistsError): ...


class InUseError(ConflictError): ...


class ReadOnlyStoreError(OneTrunkError, PermissionError): ...


class NotAllowedError(OneTrunkError, PermissionError): ...


class UnknownKeyError(NotAllowedError): ...


class StorageError(OneTrunkError, OSError): ...


class FormatError(OneTrunkError, ValueError): ...


class NewerFormatError(FormatError): ...


class OlderFormatError(FormatError): ...


class IntegrityError(OneTrunkError, ValueError): ...


class RefusedError(OneTrunkError, ValueError): ...


class GateError(RefusedError): ...


class UnservedAdapterError(RefusedError): ...


class AdapterMismatchError(RefusedError): ...


class HeadMismatchError(RefusedError): ...


class BackboneMismatchError(RefusedError): ...


class UnservedBackboneError(OneTrunkError, ValueError): ...


class ImageError(OneTrunkError, ValueError): ...


class DataError(OneTrunkError, ValueError): ...


class ServerError(OneTrunkError, ConnectionError): ...


class OverloadedError(OneTrunkError, RuntimeError): ...


class DeadlineError(OverloadedError): ...


class PortTakenError(OneTrunkError, OSError): ...
