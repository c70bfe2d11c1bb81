from .records import Tried as Tried
from .records import TunedSettings as TunedSettings
from .run import tune as tune
from .threads import ThreadScaling as ThreadScaling
from .threads import ThreadSpeed as ThreadSpeed
from .threads import measure_threads as measure_threads
