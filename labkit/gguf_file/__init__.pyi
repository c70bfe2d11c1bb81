from .header import Header as Header
from .read import read_header as read_header
from .tensor_table import TensorInfo as TensorInfo
from .values import LazyArray as LazyArray
