//! An adapter of unknown files, opened for a sound base and read to its last factor.

use interleaf_contract::Matrix;
use interleaf_kernels_ref::weight::decode_row;
use interleaf_model::{Model, PeftAdapter, Proj, Source};

/// Whether there is an adapter for this base. One that opens must fit it.
pub fn read(source: &Source, base: &Model) -> bool {
    let adapter = match PeftAdapter::open("input", source, base) {
        Ok(adapter) => adapter,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    assert!(!adapter.sites.is_empty());
    let modules = modules(base);
    let mut next = 0;
    for site in &adapter.sites {
        // In the base's order, each once.
        let at =
            modules[next..].iter().position(|(name, _)| *name == site.module).expect("a module, in order");
        let [outputs, inputs] = modules[next + at].1;
        next += at + 1;
        assert!(site.scale.is_finite(), "{site:?}");
        assert_eq!([site.a.rows(), site.a.cols()], [site.rank, inputs]);
        assert_eq!([site.b.rows(), site.b.cols()], [outputs, site.rank]);
        check_finite(&site.a);
        check_finite(&site.b);
    }
    let vocabulary = base.config().vocab_size;
    if let Some(tokens) = &adapter.invocation {
        assert!(!tokens.is_empty() && tokens.iter().all(|t| (*t as usize) < vocabulary));
    }
    assert_eq!(adapter.digest(), adapter.digest());
    true
}

/// Every module of the base that an adapter may be of, with its shape, in the order of the forward pass.
fn modules(base: &Model) -> Vec<(String, [usize; 2])> {
    let config = base.config();
    let mut all = Vec::new();
    for layer in 0..config.layers {
        for proj in Proj::ALL {
            let weights = base.projection(layer, proj, Default::default()).expect("a sound base");
            all.push((weights.name, config.projection_shape(proj)));
        }
    }
    all.push((base.head_name().to_owned(), [config.vocab_size, config.hidden_size]));
    all
}

fn check_finite(factor: &Matrix) {
    let mut row = vec![0.0; factor.cols()];
    for index in 0..factor.rows() {
        decode_row(factor, index, &mut row);
        assert!(row.iter().all(|v| v.is_finite()), "{}", factor.name());
    }
}
