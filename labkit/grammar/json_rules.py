"""JSON in GBNF, and the types that JSON schema keywords apply to."""

from __future__ import annotations

RULES = {
    "ws": '" "?',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" ws (string ":" ws value ("," ws string ":" ws value)* ws)? "}"',
    "array": '"[" ws (value ("," ws value)* ws)? "]"',
    "string": '"\\"" char* "\\""',
    # No lone surrogates: JSON allows them, but files and screens do not.
    "char": r"""[\x20-\x21\x23-\x5B\x5D-\x7E\u0080-\uD7FF\uE000-\U0010FFFF] | "\\" escape""",
    "escape": r"""["\\/bfnrt] | "u" ([0-9a-cefA-CEF] hex | [dD] [0-7]) hex hex""",
    "hex": "[0-9a-fA-F]",
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    # The exponent has at most two digits, so no number overflows a float.
    "number": 'integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "date": (
        '[0-9]{4} "-" (("01" | "03" | "05" | "07" | "08" | "10" | "12") "-" (day | "29" | "30" | "31") | '
        '("04" | "06" | "09" | "11") "-" (day | "29" | "30") | "02-" day)'
    ),
    "day": '"0" [1-9] | "1" [0-9] | "2" [0-8]',
    "time": 'clock ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [-+] clock)',
    "clock": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]',
    "format-date": '"\\"" date "\\""',
    "format-time": '"\\"" time "\\""',
    "format-date-time": '"\\"" date "T" time "\\""',
    "format-uuid": '"\\"" hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12} "\\""',
}
NEEDS = {
    "object": "ws string value", "array": "ws value", "string": "char", "char": "escape", "escape": "hex",
    "number": "integer",
    "value": "object array string number boolean null", "date": "day", "time": "clock", "format-date": "date",
    "format-time": "time", "format-date-time": "date time", "format-uuid": "hex",
}  # fmt: skip
KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
}
KEYWORDS["integer"] = KEYWORDS["number"]
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
# Annotations, which do not constrain a text.
SILENT = {
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "definitions", "discriminator",
}  # fmt: skip
CHOICES = {"$ref", "anyOf", "oneOf", "allOf", "enum", "const"}


def separated(items: list[str]) -> list[str]:
    """Put commas between items."""
    return [piece for index, item in enumerate(items) for piece in (['"," ws', item] if index else [item])]


def times(least: int, most: int | None) -> str:
    """Write a repetition; None is "without limit"."""
    if (least, most) == (0, None):
        return "*"
    if (least, most) == (1, None):
        return "+"
    return f"{{{least},{'' if most is None else most}}}" if least != most else f"{{{least}}}"
