"""A TensorBoard event file that is written at once: what the disk refuses is an OSError where it is
written.

tensorboardX's own writer hands events to a thread through a short queue. A full disk ends that
thread, and the caller that hands it the next events waits forever.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class EventFile:
    """One new file in a folder; earlier files keep what they say of steps up to `step`.

    Raises:
      OSError: from every method; the file is given up then, and later calls do nothing.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # tensorboardX names a file by the second only.
        self._writer: EventsWriter | None = EventsWriter(
            str(folder / "events"), f".{os.getpid()}.{step}"
        )
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds numbers and uint8 (h, w, 3) pictures by name."""
        parts = [
            summary.image(name, value, dataformats="HWC")
            if isinstance(value, np.ndarray)
            else summary.scalar(name, value)
            for name, value in values.items()
        ]
        self._write(Event(step=step, summary=Summary(value=[part.value[0] for part in parts])))

    def close(self) -> None:
        """Closes the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _write(self, event: Event) -> None:
        if self._writer is None:
            return
        event.wall_time = time.time()
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError:
            with suppress(OSError):  # it would try once more
                self.close()
            raise
