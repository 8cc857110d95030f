//! Which layers of an adapter's K and V are the base's to the bit, whatever the tokens. Knows nothing of pages.
//!
//! A layer's K and V are computed from the residual stream that comes into it, by its own k and v projections. Below the
//! first layer that the adapter changes at all, stream and projections are the base's. In that layer the stream still is,
//! so that its K and V are too unless the adapter changes k or v there. Above it the stream is another.

/// Leading layers of `layers` whose K and V an adapter leaves as they are, given for each module that it changes the
/// layer, and whether that is a k or v projection, fused ones included. A module whose scale is 0 changes nothing and must
/// not be given; what changes nothing at all leaves every layer.
#[must_use]
pub fn shared_layers(layers: usize, changed: impl IntoIterator<Item = (usize, bool)>) -> usize {
    let first = changed.into_iter().fold(None, |first: Option<(usize, bool)>, (layer, kv)| match first {
        Some((least, _)) if layer > least => first,
        Some((least, before)) if layer == least => Some((least, before || kv)),
        _ => Some((layer, kv)),
    });
    first.map_or(layers, |(layer, kv)| layer + usize::from(!kv)).min(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_below_the_first_changed_one_are_shared_and_that_one_if_k_and_v_are_left_alone() {
        assert_eq!(shared_layers(6, []), 6);
        assert_eq!(shared_layers(6, [(0, true), (3, false)]), 0);
        assert_eq!(shared_layers(6, [(4, true), (1, false), (2, true)]), 2);
        assert_eq!(shared_layers(6, [(2, false), (2, true)]), 2);
        assert_eq!(shared_layers(6, [(2, true), (2, false)]), 2);
        assert_eq!(shared_layers(6, [(5, false)]), 6);
        assert_eq!(shared_layers(6, [(9, true)]), 6);
    }
}
