from .generate import BatchStream as BatchStream
from .generate import generate_batch as generate_batch
from .generate import generate_batch_results as generate_batch_results
from .generate import stream_batch as stream_batch
from .records import BatchChunk as BatchChunk
from .records import BatchItem as BatchItem
from .records import BatchResult as BatchResult
