"""A chat template with reasoning, for chapter 10: the bundled model has none, and cannot think."""

THINKING_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.reasoning_content and loop.last -%}
{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}
{%- endif -%}
{{ message.content + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking -%}{{ '<think>\n\n</think>\n\n' }}
{%- else -%}{{ '<think>\n' }}{%- endif -%}
{%- endif -%}
"""
