"""ferstore: a distributed feature store for image features.

``import ferstore; ferstore.open(url)`` is the Python API (`ferstore.api`); ``ferstore --help`` the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferstore.api import FeatureStore as FeatureStore
    from ferstore.api import init as init
    from ferstore.api import open as open  # noqa: A004
    from ferstore.query.limits import Limits as Limits
    from ferstore.result import Result as Result

__all__ = ["FeatureStore", "Limits", "Result", "init", "open"]


def __getattr__(name: str) -> Any:
    # PyIceberg and DuckDB take most of a second to import; a worker that decodes images needs neither.
    if name in __all__:
        from ferstore import api

        return getattr(api, name)
    raise AttributeError(f"module 'ferstore' has no attribute {name!r}")
