// Folded grids: a dispatch of more workgroups than one dimension holds is spread over x and y, and the
// last row of it is not full. Kernels compare this index with the number they were asked for.
fn folded_index(id: vec3<u32>, grid: vec3<u32>) -> u32 {
    return id.y * grid.x + id.x;
}
