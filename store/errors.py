"""Every error that onetrunk raises for a caller's mistake or a damaged store.

OnetrunkError
├── InvalidNameError            (ValueError)       a task, alias, ref, key or backbone name is malformed
├── InvalidSettingError         (ValueError)       an option has a value that no run can use
├── NotFoundError               (LookupError)      no folder, file or API key of this name
│   ├── StoreNotFoundError                         no store at this folder or bucket
│   ├── TaskNotFoundError                          no task of this name
│   ├── VersionNotFoundError                       the task has no such version, alias or digest
│   └── BackboneNotFoundError                      no backbone of this name or fingerprint
├── ConflictError               (FileExistsError)  the name is taken, or another change came first
│   └── InUseError                                 an alias, a lease or a version still uses it
├── ReadOnlyStoreError          (PermissionError)  the store cannot be written by this user
├── NotAllowedError             (PermissionError)  a protected alias, or an API key without the scope
│   └── UnknownKeyError                            no API key, or one that is not valid
├── StorageError                (OSError)          the disk, the bucket or the database failed
│   └── StoreBusyError          (TimeoutError)     another writer holds the catalogue for longer than the time limit
├── FormatError                 (ValueError)       a file is not in the format that it claims
│   ├── NewerFormatError                           written by a newer onetrunk
│   └── OlderFormatError                           written by an older onetrunk, to be migrated first
├── IntegrityError              (ValueError)       bytes differ from the digest that names them
├── RefusedError                (ValueError)       a version that could not be served correctly
│   ├── GateError                                  a version without the evidence that an alias rule requires
│   ├── UnservedAdapterError                       a PEFT method or option without an exact form
│   ├── AdapterMismatchError                       adapter tensors do not fit the config, the backbone or the depth
│   ├── HeadMismatchError                          head and class names do not fit each other or the backbone
│   └── BackboneMismatchError                      made on another backbone, or a backbone that is not its record's
├── UnservedBackboneError       (ValueError)       not a timm VisionTransformer that the engine restates
├── ImageError                  (ValueError)       bytes that cannot be decoded safely as an image
├── DataError                   (ValueError)       a dataset on which no task can be tuned or scored
├── ServerError                 (ConnectionError)  a server that does not answer, or answers with an error
├── OverloadedError             (RuntimeError)     the queue or the memory is full; the request was not started
│   └── DeadlineError                              the answer would come after the request's deadline
├── ClosedStoreError            (ValueError)       the store was closed before
└── PortTakenError              (OSError)          the port cannot be listened on

Each message is one line: the value, the rule it breaks, and the remedy.
"""

from __future__ import annotations


class OnetrunkError(Exception):
    """Base of every error above; its message is one line fit to be shown to a user."""


class InvalidNameError(OnetrunkError, ValueError):
    """Raised where a name has characters, a length or a form that such a name may not have."""


class InvalidSettingError(OnetrunkError, ValueError):
    """Raised where an argument or option has a value that cannot be used, or contradicts another one."""


class NotFoundError(OnetrunkError, LookupError):
    """Raised where something that a caller names does not exist; the classes below say what, where there is one."""


class StoreNotFoundError(NotFoundError):
    """Raised where a folder or a bucket holds no store, or one whose creation was never finished."""


class TaskNotFoundError(NotFoundError):
    """Raised where a store has no task of this name, or none that the API key may see."""


class VersionNotFoundError(NotFoundError):
    """Raised where a task has no version with this number, digest or alias, or where that version was removed."""


class BackboneNotFoundError(NotFoundError):
    """Raised where a store has no such backbone, or where timm cannot load one of this name."""


class ConflictError(OnetrunkError, FileExistsError):
    """Raised where a name is taken by something else, or where another process made a change first."""


class InUseError(ConflictError):
    """Raised where something is to be removed that an alias, a lease or a version still uses."""


class ReadOnlyStoreError(OnetrunkError, PermissionError):
    """Raised where this user, or the keys to the bucket, may read the store and not write it."""


class NotAllowedError(OnetrunkError, PermissionError):
    """Raised where an alias is protected and the move not forced, or where an API key lacks the scope or the tenant."""


class UnknownKeyError(NotAllowedError):
    """Raised where a request has no API key, or one that is unknown or revoked."""


class StorageError(OnetrunkError, OSError):
    """Raised where the disk, the bucket or the database fails or does not answer."""


class StoreBusyError(StorageError, TimeoutError):
    """Raised where another writer holds the catalogue for longer than the time limit; nothing was changed."""


class FormatError(OnetrunkError, ValueError):
    """Raised where a file or a record cannot be parsed, or holds what its format does not allow."""


class NewerFormatError(FormatError):
    """Raised where a record has a format above those that this onetrunk reads."""


class OlderFormatError(FormatError):
    """Raised where a store has a format that must be migrated before it can be opened."""


class IntegrityError(OnetrunkError, ValueError):
    """Raised where bytes are missing or differ from their digest, or where catalogue and journal disagree."""


class RefusedError(OnetrunkError, ValueError):
    """Raised where a version is not published, or an alias not moved, since it could not be served correctly."""


class GateError(RefusedError):
    """Raised where a version lacks the certificate, the accuracy or the drop that the rule of an alias requires."""


class UnservedAdapterError(RefusedError):
    """Raised where a method, or an option of one, has no exact form that the engine can run."""


class AdapterMismatchError(RefusedError):
    """Raised where an adapter's tensors do not fit its config, the backbone or the depth."""


class HeadMismatchError(RefusedError):
    """Raised where the head does not fit the class names or the backbone's width, or a class name is not valid."""


class BackboneMismatchError(RefusedError):
    """Raised where a task was made on another backbone, or where weights are not those of their record."""


class UnservedBackboneError(OnetrunkError, ValueError):
    """Raised where a model is not a timm VisionTransformer, or has a part that the engine does not restate."""


class ImageError(OnetrunkError, ValueError):
    """Raised where bytes are not an image of a supported format, or one that is too large."""


class DataError(OnetrunkError, ValueError):
    """Raised where a dataset cannot be read, or has too few classes or images, or labels that do not fit."""


class ServerError(OnetrunkError, ConnectionError):
    """Raised by the client where a server cannot be reached, or answers with an error."""


class OverloadedError(OnetrunkError, RuntimeError):
    """Raised where the queue or the memory has no room for a request, or the server is stopping; ask again later."""


class DeadlineError(OverloadedError):
    """Raised where an answer would come after the deadline of its request."""


class ClosedStoreError(OnetrunkError, ValueError):
    """Raised where a store is used after it was closed."""


class PortTakenError(OnetrunkError, OSError):
    """Raised where a server cannot listen on its port, most often as another program does."""
