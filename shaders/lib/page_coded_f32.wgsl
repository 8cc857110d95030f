// Pages in any codec, of a pool whose exact pages are f32.
#include "lib/page_f32${NARROW}.wgsl"
#include "lib/half_${HALF}.wgsl"
#include "lib/page_coded.wgsl"
