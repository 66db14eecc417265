"""`cd tests && python -m loopback_hub`: a Hub for trying things by hand; prints what to export, ends with Ctrl-C."""

import sys
import threading

from loopback_hub.server import LoopbackHub

with LoopbackHub() as hub:
    sys.stdout.writelines(f"export {name}={value}\n" for name, value in hub.environment().items())
    sys.stdout.flush()
    threading.Event().wait()
