from .generate import count_chat_tokens as count_chat_tokens
from .generate import generate_chat as generate_chat
from .generate import stream_chat as stream_chat
from .tool_choice import ToolChoice as ToolChoice
from .tool_choice import choose_tool as choose_tool
