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
        '[1-9] [0-9]{3} "-" (("01" | "03" | "05" | "07" | "08" | "10" | "12") "-" (day | "29" | "30" | "31") | '
        '("04" | "06" | "09" | "11") "-" (day | "29" | "30") | "02-" day)'
    ),
    "day": '"0" [1-9] | "1" [0-9] | "2" [0-8]',
    "time": 'clock ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [-+] clock)',
    "clock": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]',
    "format-date": '"\\"" date "\\""',
    "format-time": '"\\"" time "\\""',
    "format-date-time": '"\\"" date "T" time "\\""',
    # The common texts of each format, not all of them.
    "label": '[a-z0-9]{1,20} ("-" [a-z0-9]{1,20}){0,2}',
    "byte": '[0-9] | [1-9] [0-9] | "1" [0-9]{2} | "2" [0-4] [0-9] | "25" [0-5]',
    "host": 'label ("." label){0,3} "." [a-z]{2,8}',
    "format-email": '"\\"" [a-z0-9]{1,17} ([._+-] [a-z0-9]{1,17}){0,2} "@" label ("." label){0,2} "." [a-z]{2,8} "\\""',
    "format-hostname": '"\\"" host "\\""',
    "format-ipv4": '"\\"" byte "." byte "." byte "." byte "\\""',
    "format-ipv6": '"\\"" [0-9a-f]{1,4} (":" [0-9a-f]{1,4}){7} "\\""',
    "format-uri": '"\\"http" "s"? "://" host ("/" [A-Za-z0-9._~-]{1,40}){0,8} "/"? "\\""',
    "format-duration": '"\\"P" ([0-9]{1,4} [YMWD] | "T" [0-9]{1,4} [HMS]) "\\""',
    "format-json-pointer": '"\\"" ("/" [A-Za-z0-9_-]{0,40}){0,8} "\\""',
    "format-relative-json-pointer": r'''"\"" ("0" | [1-9] [0-9]{0,3}) ("#" | ("/" [A-Za-z0-9_-]{0,40}){0,8}) "\""''',
    "base64": '[A-Za-z0-9+/] ([AQgw] "==" | [A-Za-z0-9+/] [AEIMQUYcgkosw048] "=")',
    "format-base64": '"\\"" ([A-Za-z0-9+/]{4})* base64? "\\""',
    "format-regex": '"\\"" [A-Za-z0-9 _-]{0,80} "\\""',
    "format-uuid": '"\\"" hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12} "\\""',
}
NEEDS = {
    "object": "ws string value", "array": "ws value", "string": "char", "char": "escape", "escape": "hex",
    "number": "integer",
    "value": "object array string number boolean null", "date": "day", "time": "clock", "format-date": "date",
    "host": "label", "format-email": "label", "format-hostname": "host", "format-ipv4": "byte", "format-uri": "host",
    "format-base64": "base64",
    "format-time": "time", "format-date-time": "date time", "format-uuid": "hex",
}  # fmt: skip
KEYWORDS = {
    "object": {
        "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
        "maxProperties", "unevaluatedProperties",
    },
    "array": {"items", "prefixItems", "minItems", "maxItems", "unevaluatedItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
}  # fmt: skip
KEYWORDS["integer"] = KEYWORDS["number"]
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
# Annotations, which do not constrain a text.
SILENT = {
    "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "definitions",
    "discriminator", "contentEncoding", "contentMediaType", "contentSchema", "id",
}  # fmt: skip
# Formats that have the same texts here, and the shortest and longest text of each.
SAME_FORMATS = {
    "idn-email": "email", "idn-hostname": "hostname", "iri": "uri", "uri-reference": "uri", "iri-reference": "uri",
    "uri-template": "uri",
}  # fmt: skip
LENGTHS = {
    "date": (10, 10), "time": (9, 21), "date-time": (20, 32), "email": (6, 251), "hostname": (4, 260), "ipv4": (7, 15),
    "ipv6": (15, 39), "uri": (11, 597), "duration": (3, 7), "json-pointer": (0, 328), "relative-json-pointer": (1, 332),
    "regex": (0, 80), "uuid": (36, 36), "base64": (0, 10**9),
}  # fmt: skip


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
