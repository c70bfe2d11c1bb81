"""GBNF and JSON schemas, checked before llama.cpp reads them; imported only for ``grammar=`` or ``json_schema=``.

::

    check         GBNF grammar -> the same text, or an error
    rules         llama.cpp's limits on a grammar's rules
    json_schema   JSON schema -> GBNF
    schema_form   JSON schema -> its keywords in today's spelling, references numbered
    schema_join   keywords and schemas side by side -> alternatives without them
    json_rules    rules for JSON values
    regex         regular expression -> GBNF
    number_range  range of numbers -> GBNF
"""
