"""Errors of source videos, of shards, and of the remote folders that hold them."""

from __future__ import annotations

from videomae.core.errors import UserError


class ShardError(UserError):
    """Shards, an index or a manifest that cannot be used."""


class RemoteError(UserError):
    """A remote folder that cannot be reached or used, or a local disk that cannot keep its files."""


class ChangedError(ShardError):
    """A remote file whose content differs from what the manifest says."""


class SourceError(UserError):
    """Source videos, or lists of them, that cannot be used."""
