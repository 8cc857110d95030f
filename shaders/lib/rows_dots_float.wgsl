// Dot products of a lone row and of a tile of rows in f32.
#include "lib/rows_dot_float.wgsl" ROWS=1 REST=3
#include "lib/rows_dot_float.wgsl" ROWS=${ROW_TILE} REST=0
