//! Chunks at rest: put there in idle time, as what one map from the base's pages leaves of all their layers, and given exact
//! pages again before a call that opens them reads these. When and which is the manager's to say (`interleaf-kv`).
//!
//! Both are done on the host, from pages as they are stored, so that they are the same on every backend. The map and its
//! basis are read from the store for it, and let go after: of what is at rest nothing is held but its bytes.

mod joint;
mod panels;

use interleaf_contract::{
    BackendError, Bytes, CHUNK_TOKENS, PAGE_UNIT, PageAddress, PageData, PageEntry, PageHalf, PageLoss,
    PoolGeometry,
};
use interleaf_kernels_ref::page_codec::{decode, encode, transpose};
use interleaf_kv::{AdapterId, Op, Rest};
use interleaf_model::WeightFormat;
use rayon::prelude::*;

use self::joint::{Joint, Numbers};
use crate::cache::Ended;
use crate::inspect::decoded;
use crate::{Engine, EngineError};

const HALVES: [PageHalf; 2] = [PageHalf::K, PageHalf::V];

/// Chunks that are read, decoded and written at once.
const BATCH: usize = 32;

impl Engine {
    /// Puts at most so many chunks to rest, or into whatever form takes less and that calls allow. Returns for how many that was
    /// tried; what was tried in vain is not tried again.
    pub(crate) fn rest(&mut self, chunks: usize) -> Result<usize, EngineError> {
        let moves = self.cache.rest(chunks);
        let count = moves.len();
        self.encode_pages(moves)?;
        Ok(count)
    }

    /// Carries out encodings of chunks that go to rest, and returns what follows from them. What goes on for want of its map is
    /// told to cost too much, so that it takes another form.
    pub(crate) fn put_to_rest(&mut self, moves: Vec<(Op, Rest)>) -> Result<Vec<Op>, EngineError> {
        let mut at_hand: Option<(AdapterId, Option<Joint>)> = None;
        let positions = positions(moves.iter().map(|(_, rest)| rest));
        let (mut follows, mut moves) = (Vec::new(), moves.into_iter());
        while let Some((op, rest)) = moves.next() {
            if at_hand.as_ref().is_none_or(|(adapter, _)| *adapter != rest.adapter) {
                at_hand = Some((rest.adapter, self.joint(rest.adapter, positions)?));
            }
            let drift = match at_hand.as_ref().and_then(|(_, joint)| joint.as_ref()) {
                Some(joint) => self.on_device(|engine| engine.encode_at_rest(&rest, joint)),
                None => Ok(f32::INFINITY),
            };
            match drift {
                Ok(drift) => follows.extend(self.cache.encoded(op, Some(drift))),
                Err(error) => {
                    let left = std::iter::once(op).chain(moves.map(|(op, _)| op)).chain(follows);
                    left.for_each(|op| drop(self.cache.encoded(op, None)));
                    return Err(error);
                }
            }
        }
        Ok(follows)
    }

    /// Encodes one chunk. Returns what that costs at most, in nats.
    fn encode_at_rest(&mut self, rest: &Rest, joint: &Joint) -> Result<f32, EngineError> {
        let [base, own] = [&rest.base, &rest.own].map(|pages| self.numbers(pages));
        let (base, own) = (base?, own?);
        let mut bytes = joint.encode(rest.codec, &rest.tokens, rest.chunk, &base, &own);
        let found = joint.decode(rest.codec, &rest.tokens, rest.chunk, &base, &bytes);
        let losses: Vec<[PageLoss; 2]> = own
            .iter()
            .zip(&found)
            .map(|(own, found)| [0, 1].map(|half| self.loss(&own[half], &found[half])))
            .collect();
        bytes.resize(rest.parts.iter().map(|(.., bytes)| *bytes as usize).sum(), 0);
        let mut left = bytes.as_slice();
        let part = |&(layer, at, bytes): &(usize, u64, u32)| {
            let (own, after) = left.split_at(left.len().min(bytes as usize));
            left = after;
            PageData { address: address(layer, at, bytes), bytes: Bytes::copy_from_slice(own) }
        };
        let parts: Vec<PageData> = rest.parts.iter().map(part).collect();
        self.backend.write_pages(&parts)?;
        Ok(self.calibrated.divergence_at_rest(rest.adapter, rest.form, &losses))
    }

    /// What values lose that a page of exact numbers holds in place of others.
    fn loss(&self, own: &[f32], found: &[f32]) -> PageLoss {
        let element = self.reserved.geometry.element;
        let mut words = vec![0u32; element.bytes(found.len()).div_ceil(size_of::<u32>())];
        let page: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        encode(element, page, 0, found);
        let mut held = vec![0.0; found.len()];
        decode(element, page, 0, &mut held);
        let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>() as f32;
        PageLoss {
            error: squares(&mut own.iter().zip(&held).map(|(own, held)| f64::from(own - held))),
            norm: squares(&mut own.iter().map(|own| f64::from(*own))),
        }
    }

    /// Gives chunks that a sequence opened exact pages, which take effect before any step that is submitted later. What cannot
    /// be decoded any more is gone, and the sequence has the tokens before it.
    pub(crate) fn wake(&mut self, moves: &[Op]) -> Result<(), EngineError> {
        let manager = self.cache.manager();
        let rests: Vec<(Op, Rest)> =
            moves.iter().filter_map(|op| Some((*op, manager.rest_of(op.id)?))).collect();
        let Some(adapter) = rests.first().map(|(_, rest)| rest.adapter) else { return Ok(()) };
        let Some(joint) = self.joint(adapter, positions(rests.iter().map(|(_, rest)| rest)))? else {
            moves.iter().for_each(|op| self.cache.woken(*op, Ended::Failed));
            return Ok(());
        };
        for (done, batch) in rests.chunks(BATCH).enumerate() {
            if let Err(error) = self.materialise(batch, &joint) {
                rests[done * BATCH..].iter().for_each(|(op, _)| self.cache.woken(*op, Ended::Cancelled));
                return Err(error);
            }
            batch.iter().for_each(|(op, _)| self.cache.woken(*op, Ended::Done));
        }
        Ok(())
    }

    fn materialise(&mut self, batch: &[(Op, Rest)], joint: &Joint) -> Result<(), EngineError> {
        let mut read = Vec::with_capacity(batch.len());
        for (_, rest) in batch {
            let parts: Vec<PageAddress> =
                rest.parts.iter().map(|&(layer, at, bytes)| address(layer, at, bytes)).collect();
            let ticket = self.backend.read_pages(&parts)?;
            let bytes: Vec<u8> =
                self.backend.wait_pages(ticket)?.iter().flat_map(|part| part.bytes.iter().copied()).collect();
            read.push((rest, self.numbers(&rest.base)?, bytes));
        }
        let geometry = self.reserved.geometry;
        let pages = read.par_iter().flat_map_iter(|(rest, base, bytes)| {
            let used = &bytes[..rest.codec.chunk_bytes().min(bytes.len())];
            let numbers = joint.decode(rest.codec, &rest.tokens, rest.chunk, base, used);
            written(&geometry, rest, &numbers)
        });
        let pages: Vec<PageData> = pages.collect();
        Ok(self.backend.write_pages(&pages)?)
    }

    /// The map of an adapter, for so many positions.
    fn joint(&mut self, adapter: AdapterId, positions: usize) -> Result<Option<Joint>, EngineError> {
        self.with_joint_map(adapter, |engine, joint| {
            let embedding = engine.model.embedding(WeightFormat::Stored)?;
            Ok(Joint::new(engine.model.config(), &joint, embedding, positions))
        })
    }

    /// A chunk's pages of all layers as numbers, none of which is decoded over another.
    fn numbers(&mut self, pages: &[interleaf_contract::ChunkEntry]) -> Result<Numbers, EngineError> {
        let geometry = self.reserved.geometry;
        let all: Vec<(u32, PageHalf, PageEntry)> = (0..)
            .zip(pages)
            .flat_map(|(layer, entry)| HALVES.map(|half| (layer, half, entry.half(half))))
            .collect();
        if let Some((.., entry)) =
            all.iter().find(|(.., entry)| !entry.codec.stands_alone() || entry.constants.is_some())
        {
            let what = format!("putting pages in {} to rest", entry.codec);
            return Err(BackendError::Unsupported { backend: "engine", what }.into());
        }
        let addresses: Vec<PageAddress> =
            all.iter().map(|(layer, half, entry)| geometry.address(*layer, *half, *entry)).collect();
        let ticket = self.backend.read_pages(&addresses)?;
        let read = self.backend.wait_pages(ticket)?;
        let by_token = read.iter().zip(&all).map(|(page, (_, half, entry))| {
            let values = decoded(&geometry, *half, entry.codec, &[], &page.bytes);
            transpose(&values, geometry.kv_heads, CHUNK_TOKENS)
        });
        let by_token: Vec<Vec<f32>> = by_token.collect();
        Ok(by_token.chunks_exact(2).map(|pair| [pair[0].clone(), pair[1].clone()]).collect())
    }
}

/// Exact pages of the layers that a chunk has of its own.
fn written(geometry: &PoolGeometry, rest: &Rest, numbers: &Numbers) -> Vec<PageData> {
    let layers = (0..).zip(rest.own.iter().zip(numbers)).skip(rest.first);
    let page = |(layer, (entry, numbers)): (u32, (&interleaf_contract::ChunkEntry, &[Vec<f32>; 2]))| {
        HALVES.map(|half| {
            let values = transpose(&numbers[half as usize], CHUNK_TOKENS, geometry.kv_heads);
            let mut words = vec![0u32; geometry.page_bytes().div_ceil(size_of::<u32>())];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
            encode(geometry.element, bytes, 0, &values);
            let address = geometry.address(layer, half, entry.half(half));
            PageData { address, bytes: Bytes::copy_from_slice(bytes) }
        })
    };
    layers.flat_map(page).collect()
}

fn address(layer: usize, at: u64, bytes: u32) -> PageAddress {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let unit = PAGE_UNIT as u64;
    PageAddress { layer: number(layer as u64), at: number(at / unit), units: number(u64::from(bytes) / unit) }
}

/// Positions that some chunks reach to.
fn positions<'a>(rests: impl Iterator<Item = &'a Rest>) -> usize {
    rests.map(|rest| rest.chunk as usize + 1).max().unwrap_or(0) * CHUNK_TOKENS
}
