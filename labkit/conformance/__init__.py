"""The suite of the seven functions: for labkit itself, and for a student's own file.

::

    functions   what each of the seven has to do, in checks that say what is wrong as a relation
    suite       the checks of one module, one verdict a function
    run         a file's functions, each checked in a process of its own (child)      check_file
    plugin      the same as a pytest plug-in (test_functions are its tests)
    skeleton    the file that a student begins with                                    write_skeleton

``pytest -p labkit.conformance.plugin --implementation FILE_OR_MODULE --pyargs labkit.conformance``
"""

from __future__ import annotations

from labkit.conformance.run import ConformanceReport, check_file, write_skeleton
from labkit.conformance.suite import FUNCTIONS, FunctionReport, check_module

__all__ = ["FUNCTIONS", "ConformanceReport", "FunctionReport", "check_file", "check_module", "write_skeleton"]
