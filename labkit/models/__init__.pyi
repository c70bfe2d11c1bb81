from .catalog import ModelEntry as ModelEntry
from .catalog import list_models as list_models
from .download import fetch_model as fetch_model
from .resolve import MODEL_VARIABLE as MODEL_VARIABLE
from .resolve import bundled_model_path as bundled_model_path
from .resolve import course_model as course_model
from .resolve import resolve_model as resolve_model
