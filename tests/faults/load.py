"""Somebody who submits all the time while a fault happens, and keeps the accounts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from bananas.errors import BrokerUnavailableError, DurabilityError, DurabilityUnconfirmedError
from bananas.settings import Settings
from bananas.sync_client import SyncClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleets import Scene
    from servers import Server


class Load:
    """Somebody who submits all the time, and notes what was acknowledged and surely copied."""

    def __init__(  # noqa: PLR0913 - each is something that some fault needs
        self,
        url: str,
        scene: Scene,
        *,
        name: str = "quick",
        payload: object = None,
        most: int = 1_000_000,
        label: str = "job",
        before: Callable[[], object] | None = None,
        **settings: object,
    ) -> None:
        """Begin with `with`.

        Args:
            url: Of the server.
            scene: Whose prefix it is.
            name: The task.
            payload: Of every job.
            most: How many jobs.
            label: What their ids begin with.
            before: Runs first in the thread that submits.
            settings: Of the client.
        """
        self.scene = scene
        self._job = (name, {} if payload is None else payload)
        self._most = most
        self._label = label
        self._before = before
        self._settings = Settings(
            redis_url=url,
            key_prefix=scene.keys.prefix,
            **settings,  # type: ignore[arg-type]
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._submit)
        self.acknowledged: list[str] = []
        self.copied = 0  # how many of these were on both replicas before the fault
        self.refused = 0  # before anything was done: the replicas are not there
        self.unknown: list[str] = []  # told to be so: these may be there or not

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; what was under way has its answer."""
        self._stop.set()
        self._thread.join()

    def note_copies(self, master: Server, replicas: int) -> None:
        """Make sure that what was acknowledged so far is on the replicas, too."""
        count = len(self.acknowledged)
        with master.client() as client:
            client.set(f"{self.scene.keys.prefix}:mark", count)
            found: object = client.execute_command("WAIT", replicas, 10_000)  # type: ignore[no-untyped-call]
        assert found == replicas
        self.copied = count

    def _submit(self) -> None:
        if self._before is not None:
            self._before()
        with SyncClient(settings=self._settings) as client:
            while not self._stop.is_set() and len(self.acknowledged) < self._most:
                job_id = f"{self._label}-{len(self.acknowledged) + len(self.unknown):06}"
                try:
                    client.submit(*self._job, id=job_id)
                except (BrokerUnavailableError, DurabilityUnconfirmedError):
                    self.unknown.append(job_id)
                except DurabilityError:
                    self.refused += 1
                else:
                    self.acknowledged.append(job_id)
                self._stop.wait(0.002)


def settle_accounts(scene: Scene, load: Load) -> list[str]:
    """Return what was acknowledged and is nowhere now; the scene takes the rest as accepted."""
    missing = [job_id for job_id in load.acknowledged if not scene.status(job_id)]
    scene.accepted = set(load.acknowledged) - set(missing)
    scene.accepted.update(job_id for job_id in load.unknown if scene.status(job_id))
    return missing
