"""Device types by name: the ways of waking nodes that an NS is configured for.

A package adds one by an entry point of the group ``ntmpatch.devices``: its name is the device type,
what it names is called with the table ``[ns.devices.NAME]`` and returns a ``DeviceType``
(servers/notification/devices.py). It should raise ConfigError, or ValueError, about its settings.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ntmpatch.base.errors import ConfigError
from ntmpatch.runtime.webhook import Webhook
from ntmpatch.servers.notification.devices import TCP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ntmpatch.servers.notification.devices import DeviceType

ENTRY_POINTS = "ntmpatch.devices"
BUILT_IN: dict[str, Callable[[dict[str, Any]], DeviceType]] = {"webhook": Webhook}
RESERVED = frozenset({TCP, "none"})


def device_types(tables: Mapping[str, dict[str, Any]]) -> dict[str, DeviceType]:
    """What the tables ``[ns.devices.NAME]`` configure; ConfigError if one cannot be had."""
    return {name: _make(name, options) for name, options in tables.items()}


def _make(name: str, options: dict[str, Any]) -> DeviceType:
    where = f"[ns.devices.{name}]"
    if name in RESERVED:
        raise ConfigError(f"{where}: {name} is built in and has no settings")
    factory: Callable[[dict[str, Any]], DeviceType] | None = BUILT_IN.get(name)
    try:
        if factory is None:
            found = entry_points(group=ENTRY_POINTS, name=name)
            if not found:
                raise ConfigError(f"{where}: no installed package provides this device type")
            factory = next(iter(found)).load()
        return factory(options)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: {error}") from error
