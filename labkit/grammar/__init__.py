"""GBNF and JSON schemas, checked before the engine sees them; opened only with ``grammar=`` or ``json_schema=``.

::

    check         a grammar in GBNF -> the same text, or an error
    rules         what llama.cpp would do with it
    json_schema   a JSON schema -> GBNF
    json_rules    the rules for JSON's own values
    regex         a pattern -> GBNF
    number_range  a range of numbers -> GBNF
"""
