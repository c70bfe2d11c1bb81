from .records import LAB_PROMPTS as LAB_PROMPTS
from .records import MilestoneFigure as MilestoneFigure
from .records import MilestoneResult as MilestoneResult
from .run import run_milestone as run_milestone
