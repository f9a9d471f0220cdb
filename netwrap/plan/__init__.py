"""From a request, the facts and the state to a Plan. Everything is checked here, before the first change."""

from __future__ import annotations

from netwrap.plan.containers import ConnectWish as ConnectWish
from netwrap.plan.containers import connect as connect
from netwrap.plan.networks import NetworkWish as NetworkWish
from netwrap.plan.networks import network_create as network_create
from netwrap.plan.networks import network_link as network_link
from netwrap.plan.ports import publish as publish
