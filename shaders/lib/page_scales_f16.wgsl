// What rounds scales to f16 comes with the encoding of f16 numbers.
