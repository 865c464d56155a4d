"""Front end for Verilog-A: preprocessor, grammar, and the way from a module to its equations."""
