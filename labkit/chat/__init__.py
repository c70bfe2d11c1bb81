"""Answer conversations: messages -> a prompt by the model's chat template -> an answer, its reasoning, calls of tools.

::

    generate      generate_chat, stream_chat, count_chat_tokens
    messages      roles, contents, calls of tools and their results, checked
    options       thinking, tools, variables of the template -> the prompt
    prompt        messages -> tokens; a user's text never becomes a control token
    thinking      reasoning and answer, split while they come; a budget for reasoning
    tool_choice   choose_tool: a tool and arguments that follow its schema

`labkit.chat_template` renders the templates, and `labkit.engine` generates.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
