"""All that runs behind the gateway: its own workers, servers by URL and the router."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from wrinklefree_inference.gateway.models import CommonModels
from wrinklefree_inference.gateway.router import Router
from wrinklefree_inference.gateway.worker import Worker

_LOOK_S = 1.0
_log = logging.getLogger(__name__)


class Fleet:
    """Starts, watches and ends it.

    Args:
        workers: That we start.
        urls: Servers that run already.
        key: That all of them take.
    """

    models: CommonModels

    def __init__(self, workers: Sequence[Worker], urls: Sequence[str], router: Router, key: str) -> None:
        self.workers, self.urls, self.router, self.key = list(workers), list(urls), router, key
        self._routed: dict[str, bool] = {}

    @property
    def all_urls(self) -> list[str]:
        """Of our workers, then of the others."""
        return [*(worker.url for worker in self.workers), *self.urls]

    def up(self) -> dict[str, bool]:
        """Which workers take requests, by URL: those that the router reaches; of a dead one of ours we know
        before it does."""
        if not self.router.is_up:
            return dict.fromkeys(self.all_urls, False)
        ours = {worker.url: worker.is_up for worker in self.workers}
        return {url: ours.get(url, True) and self._routed.get(url, False) for url in self.all_urls}

    async def start(self) -> None:
        """Return when requests can be answered by all workers.

        Raises:
            UserError: One of them, or the router, does not start; see `Supervised.start`, `CommonModels.of`
                and `Router.route`. What has started is left to `stop`.
        """
        await _all(self.router.start(), *(worker.start() for worker in self.workers))
        self.models = await CommonModels.of(self.all_urls, self.key)
        await self.router.route(self.all_urls)
        self._routed = await self.router.workers()

    async def keep(self) -> None:
        """Start again what ends, until this is cancelled."""
        await _all(self._look(), self.router.keep(), *(worker.keep() for worker in self.workers))

    async def stop(self, grace_s: float) -> None:
        """End all that we have started; what has not ended after `grace_s` is killed."""
        await asyncio.gather(*(child.stop(grace_s) for child in [self.router, *self.workers]))

    async def _look(self) -> None:
        """What the router reaches; of servers by URL nobody else would tell."""
        while True:
            await asyncio.sleep(_LOOK_S)
            found = await self.router.workers()
            for url in self.urls:
                now, before = found.get(url, False), self._routed.get(url, False)
                if now != before and self.router.is_up:
                    _log.log(
                        logging.INFO if now else logging.ERROR,
                        "%s %s",
                        url,
                        "answers again" if now else "is down",
                    )
            self._routed = found


async def _all(*work: Coroutine[Any, Any, None]) -> None:
    """Do all of it; the first error ends the rest."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
