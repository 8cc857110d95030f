// Pages in any codec, of a pool whose exact pages are f16.
#include "lib/page_f16${NARROW}.wgsl"
#include "lib/page_coded.wgsl"
