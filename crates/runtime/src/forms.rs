//! The forms that pages are kept in for calls that allow a loss, where no calibration says better: 8 bits alone, and 4 or 8
//! bits of the difference from the base's pages. What a chunk in one of them costs is measured when it is encoded (`encode`).

use interleaf_contract::{Bits, PageCodec, PageHalf, PoolGeometry};
use interleaf_kv::{Form, LayerForm, Layers, Over, PageForm};

/// From the smallest: what is expected of each decides which are tried first, and is what two small models had at most
/// (mean divergence over held-out pages).
pub fn uncalibrated(pool: &PoolGeometry) -> Vec<Form> {
    let form = |codec: PageCodec, bits, drift, over| {
        let page = |half| PageForm::stored(pool, half, codec, None);
        let layer = LayerForm { k: page(PageHalf::K), v: page(PageHalf::V) };
        let layers = Layers::Coded(vec![layer; pool.layers].into());
        Form { layers, bits, drift, over, by_density: false }
    };
    vec![
        form(PageCodec::Delta(Bits::Four), 4, 1e-5, Over::Base),
        form(PageCodec::Quantised(Bits::Eight), 8, 1e-6, Over::Nothing),
        form(PageCodec::Delta(Bits::Eight), 8, 1e-7, Over::Base),
    ]
}
