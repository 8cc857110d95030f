// A quad of the one token whose keys are read at a time, where pages are numbers.
struct Keys {
    quad_0: vec4<f32>,
}
