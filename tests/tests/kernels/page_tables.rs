//! Page tables that differ by layer: appends and attention of several layers in one step, against the reference and, to
//! the bit, against the same contents where nothing is shared and every layer has the same slots.

use interleaf_contract::{AttentionShape, PageElement, RowKind};
use interleaf_tests::attention::SequenceSpec;
use interleaf_tests::backends::{self, Boxed, label};
use interleaf_tests::layered::{LayeredCase, Tables};
use interleaf_tests::tolerance::{assert_bits, error};

const ALL: [usize; 5] = [0; 5];
const NONE: [usize; 5] = [0, 1, 2, 3, 4];

/// Who shares with whom, layer by layer.
fn sharings() -> [Vec<Vec<usize>>; 3] {
    let below = [ALL, ALL, NONE, NONE];
    let above = [NONE, NONE, ALL, ALL];
    let changing = [ALL, [0, 1, 0, 1, 1], NONE, [0, 1, 2, 1, 0]];
    [below, above, changing].map(|layers| layers.map(Vec::from).into())
}

/// Rows that share the whole of their first block of 256 positions and a part of their second.
fn case(owners: Vec<Vec<usize>>, element: PageElement, window: Option<u32>) -> LayeredCase {
    let generated = |tokens| SequenceSpec { tokens, queries: 1, kind: RowKind::Generated };
    let prompt = SequenceSpec { tokens: 310, queries: 20, kind: RowKind::Prompt };
    let (heads, kv_heads, head_dim) = (4, 2, 32);
    let scale = (head_dim as f32).sqrt().recip();
    LayeredCase {
        shape: AttentionShape { heads, kv_heads, head_dim, scale, softcap: None, window },
        element,
        sequences: vec![generated(300), generated(290), prompt, generated(277), generated(300)],
        shared_chunks: 17,
        owners,
    }
}

fn check(case: &LayeredCase, backend: &mut Boxed) {
    let label = format!("{} {case:?}", label(&**backend));
    let mut reference = backends::reference(backend.info().numerics);
    let expected = case.run(Tables::Uniform, &mut *reference).expect("the reference runs");
    let by_layer = case.run(Tables::ByLayer, &mut **backend).unwrap_or_else(|e| panic!("{label}: {e}"));
    let uniform = case.run(Tables::Uniform, &mut **backend).unwrap_or_else(|e| panic!("{label}: {e}"));
    assert!(by_layer.pages == expected.pages, "{label}: pages");
    assert!(uniform.pages == expected.pages, "{label}: pages under uniform tables");
    for (layer, expected) in expected.attention.iter().enumerate() {
        let label = format!("{label}, layer {layer}");
        assert_bits(&label, &by_layer.attention[layer], &uniform.attention[layer]);
        let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
        // A score of some tens is off by some 10⁻⁶ in f32, and what it weighs by as much.
        let error = error(expected, &by_layer.attention[layer]);
        assert!(error.max_abs <= 1e-5 * f64::from(largest), "{label}: {error:?}");
    }
}

#[test]
fn layers_that_share_pages_below_and_above_others() {
    for backend in &mut backends::reference_and_others() {
        for owners in sharings() {
            for codec in [PageElement::F16, PageElement::F32] {
                check(&case(owners.clone(), codec, None), backend);
            }
            check(&case(owners, PageElement::F16, Some(40)), backend);
        }
    }
}

#[test]
fn every_variant_of_the_gpu() {
    for backend in &mut backends::gpu_variants() {
        for owners in sharings() {
            check(&case(owners, PageElement::F16, None), backend);
        }
    }
}
