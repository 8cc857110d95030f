//! K and V of a sequence as numbers, token by token, out of an engine and into it.

use interleaf_kernels_ref::page_codec::transpose;
use interleaf_runtime::{Engine, EngineError, Feed, RowKind, SequenceHandle, Want};

/// Tokens given to the engine at once.
const PIECE: usize = 128;

/// K and V of every layer, keys as pages hold them. Each is `tokens × width`, where channel `head_dim · kv_head + element`
/// of `width` is one element.
#[derive(Debug, Clone, PartialEq)]
pub struct Kv {
    /// Tokens.
    pub tokens: usize,
    /// Keys and values, by layer.
    pub layers: Vec<[Vec<f32>; 2]>,
}

impl Kv {
    /// Computes tokens under an adapter, or under the base, in a sequence of its own, which is closed again.
    ///
    /// # Errors
    /// If the engine fails or has no room.
    pub fn compute(engine: &mut Engine, adapter: Option<&str>, tokens: &[u32]) -> Result<Self, EngineError> {
        let sequence = engine.open_sequence(adapter, tokens)?;
        let kv = feed(engine, sequence, tokens).and_then(|()| Self::read(engine, sequence, tokens.len()));
        engine.close_sequence(sequence)?;
        kv
    }

    /// What the pages of a sequence of so many tokens hold.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn read(engine: &mut Engine, sequence: SequenceHandle, tokens: usize) -> Result<Self, EngineError> {
        let (layers, heads) = (engine.config().layers, engine.config().kv_heads);
        let layers = (0..layers).map(|layer| {
            let (keys, values) = engine.read_kv(sequence, layer)?;
            Ok([transpose(&keys, heads, tokens), transpose(&values, heads, tokens)])
        });
        Ok(Self { tokens, layers: layers.collect::<Result<_, EngineError>>()? })
    }

    /// Puts these numbers into the pages of a sequence of as many tokens.
    ///
    /// # Errors
    /// If the engine refuses or fails.
    pub fn write(&self, engine: &mut Engine, sequence: SequenceHandle) -> Result<(), EngineError> {
        let heads = engine.config().kv_heads;
        for (layer, [keys, values]) in self.layers.iter().enumerate() {
            let (keys, values) = (transpose(keys, self.tokens, heads), transpose(values, self.tokens, heads));
            engine.write_kv(sequence, layer, &keys, &values)?;
        }
        Ok(())
    }
}

/// Gives tokens to a sequence and returns what the attention of each layer was given of them, tokens × hidden.
pub fn feed_tapped(
    engine: &mut Engine,
    sequence: SequenceHandle,
    tokens: &[u32],
) -> Result<Vec<Vec<f32>>, EngineError> {
    let mut inputs = vec![Vec::new(); engine.config().layers];
    for piece in tokens.chunks(PIECE) {
        let of_piece = engine.attention_inputs(sequence, piece)?;
        inputs.iter_mut().zip(of_piece).for_each(|(inputs, piece)| inputs.extend(piece));
    }
    Ok(inputs)
}

/// Gives tokens to a sequence of which only K and V are wanted.
pub fn feed(engine: &mut Engine, sequence: SequenceHandle, tokens: &[u32]) -> Result<(), EngineError> {
    for piece in tokens.chunks(PIECE) {
        engine.feed(&[Feed { sequence, tokens: piece, kind: RowKind::Prompt, want: Want::Nothing }])?;
    }
    Ok(())
}
