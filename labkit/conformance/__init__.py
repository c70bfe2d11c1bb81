"""The conformance suite of the seven functions, for labkit itself and for a student's own file.

::

    functions   checks of the seven functions, with hints
    suite       the checks of one module, one report per function
    run         a file's functions, each checked in a subprocess (child)              check_file
    plugin      the suite as a pytest plug-in (test_functions are its tests)
    skeleton    the file that a student starts with                        write_skeleton, lay_out_lab
    test_lab    pytest's file for a student's folder

``pytest -p labkit.conformance.plugin --implementation FILE_OR_MODULE --pyargs labkit.conformance``
"""

from labkit.conformance.run import ConformanceReport, check_file, lay_out_lab, write_skeleton
from labkit.conformance.suite import FUNCTIONS, FunctionReport, check_module

__all__ = ["FUNCTIONS", "ConformanceReport", "FunctionReport", "check_file", "check_module", "lay_out_lab", "write_skeleton"]
