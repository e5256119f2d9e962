"""The process that forks, watches, signals and reaps; it knows nothing of what they run."""

from bananas.supervisor.decision import EXIT_BOOT_FAILED, EXIT_FORCED, EXIT_OK, Limits
from bananas.supervisor.process import Child, ProcessSpec
from bananas.supervisor.supervisor import Event, Supervisor, log_event, slots_needed

__all__ = [
    "EXIT_BOOT_FAILED",
    "EXIT_FORCED",
    "EXIT_OK",
    "Child",
    "Event",
    "Limits",
    "ProcessSpec",
    "Supervisor",
    "log_event",
    "slots_needed",
]
